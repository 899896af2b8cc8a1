"""What a night leaves behind for people: a folder with `report.json`, written for every run."""

import importlib.metadata
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from ..retriever.releases import write_whole
from .challenge import Followed
from .evaluate import DECIDES, Result, by_cluster, evidence, summary
from .gate import Decision
from .golden import GoldenScores
from .guards import FEWEST
from .runs import Run
from .sample import Estimate, Sample

SHOWN = 15  # queries that got better, and as many that got worse
PACKAGES = (
    "clickloop",
    "torch",
    "sentence-transformers",
    "transformers",
    "onnxruntime",
    "qdrant-edge-py",
    "qdrant-client",
    "ir-measures",
    "numpy",
    "polars",
)


def write_evidence(folder: Path, results: Sequence[Result], decision: Decision) -> None:
    """What the gate saw: the queries that changed most, and the distribution of all differences."""
    ordered = sorted(results, key=lambda result: result.delta)
    content = {
        "metric": DECIDES,
        "decision": asdict(decision),
        "estimate": estimate_json(decision.sample),
        "deltas": [round(result.delta, 5) for result in ordered],
        "better": [result.as_json() for result in ordered[::-1][:SHOWN] if result.delta > 0],
        "worse": [result.as_json() for result in ordered[:SHOWN] if result.delta < 0],
        "unchanged": sum(result.delta == 0 for result in ordered),
    }
    write_whole(folder / "evidence.json", _dump(content))


def estimate_json(found: Estimate) -> dict[str, float | None]:
    """The mean of a sample with its 95 % interval; null where too few units say anything."""
    known = found.n > 1
    return {
        "n": found.n,
        "mean": found.mean,
        "low": found.low if known else None,
        "high": found.high if known else None,
    }


def challenger_json(followed: Followed, decision: Decision) -> dict[str, Any]:
    """One night of a challenger."""
    state = followed.state
    return {
        "run": followed.run_id,
        "release": followed.release_id,
        "look": state.k,
        "nights": state.nights,
        "queries": estimate_json(state.queries) | {"p_value": state.queries.p_value},
        "people": estimate_json(state.people) | {"p_value": state.people.p_value},
        **({} if state.lists is None else {"lists": estimate_json(state.lists) | {"z": state.lists.z}}),
        "level": decision.level,
        "outcome": decision.outcome,
        "reasons": list(decision.reasons),
    }


def slices_json(slices: Mapping[str, Sequence[Result]]) -> dict[str, Any]:
    """Means of nDCG@10 over clusters of queries, and the change with its interval, for every slice."""
    return {
        name: {
            "champion": _mean(by_cluster(results, lambda result: result.champion[DECIDES])),
            "candidate": _mean(by_cluster(results, lambda result: result.candidate[DECIDES])),
            "change": estimate_json(evidence(results)),
        }
        for name, results in slices.items()
    }


def golden_json(scores: GoldenScores, release: str) -> dict[str, Any]:
    """What an admin's judgments say about this release. No p-value: they decide nothing beyond their guard."""
    return {
        "release": release,
        "sha256": scores.of.sha256,
        "queries": len(scores.of.relevant),
        "judged_queries": scores.judged,
        "documents": scores.documents,
        "missing_documents": scores.missing,
        "champion": _mean(scores.champion.tolist()),
        "candidate": _mean(scores.candidate.tolist()),
        "change": estimate_json(Sample.of((scores.candidate - scores.champion).tolist())),
        "enough": len(scores.champion) >= FEWEST,
    }


def metrics_json(results: Sequence[Result], decision: Decision) -> dict[str, Any]:
    """Means of every metric on both sides, and what the gate found."""
    champion, candidate = summary(results, "champion"), summary(results, "candidate")
    found = decision.sample
    return {
        "champion": champion,
        "candidate": candidate,
        "delta": {name: candidate[name] - champion[name] for name in champion},
        "interval": [found.low, found.high] if found.n > 1 else None,
        "clusters": found.n,
        "queries": len({result.query for result in results}),
        "p_value": decision.p_value,
        "level": decision.level,
        "look": decision.look,
    }


def write(folder: Path, run: Run) -> None:
    """The whole report; whatever the run did not reach is left out."""
    folder.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {"run": asdict(run), "written_at": time.time()}
    for name in ("evidence", "curve"):
        path = folder / f"{name}.json"
        if path.exists():
            content[name] = orjson.loads(path.read_bytes())
    write_whole(folder / "report.json", _dump(content))


def packages() -> dict[str, str]:
    found = {"python": platform.python_version(), "platform": sys.platform}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _dump(content: dict[str, Any]) -> bytes:
    return orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY)
