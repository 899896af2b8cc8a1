"""Reports of nightly runs for people: one self-contained page each, and the list of all."""

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson
from jinja2 import ChainableUndefined, Environment, FileSystemLoader

from ..trainer.runs import Run
from . import plots
from .schemas import run_json

OUTCOMES = {
    "promoted": "promoted: the new model answers",
    "rejected": "rejected: the present model stays",
    "not_enough_evidence": "not enough evidence yet: the present model stays",
    "awaiting_approval": "waits for an admin's approval",
    "skipped": "skipped: there was not enough to learn from",
    "failed": "failed",
}
GUARDS = {
    "self-retrieval": "titles, or first sentences or halves, find their own document",
    "identifiers": "words that one document alone has, such as codes, find it",
    "collapse": "documents stay as different from each other as they were",
    "latency": "queries are encoded about as fast as before",
    "golden": "queries that an admin judged find what is right",
}
SLICES = {
    "head": "the most-searched clusters, which make up half of the judged searches",
    "tail": "all other clusters",
    "unlike training": "clusters that share at most half of their words with any query that was trained on",
}


class Reports:
    """Reads what the trainer wrote below `folder`; never computes a result of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pages = Environment(
            loader=FileSystemLoader(Path(__file__).parent / "templates"),
            autoescape=True,
            undefined=ChainableUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._pages.filters["time"] = _time
        self._pages.filters["signed"] = lambda value: "–" if value is None else f"{value:+.4f}"
        self._pages.filters["number"] = lambda value: "–" if value is None else f"{value:.4f}"
        self._pages.filters["percent"] = lambda share: f"{share:.0%}".replace("%", " %")
        self._pages.filters["interval"] = _interval

    def data(self, run: Run) -> dict[str, Any]:
        """The report as JSON: the run as it is now, with what the night wrote."""
        path = self._folder / run.id / "report.json"
        written = orjson.loads(path.read_bytes()) if path.exists() else {}
        return {**run_json(run), "evidence": written.get("evidence"), "curve": written.get("curve", [])}

    def html(self, run: Run) -> str:
        data = self.data(run)
        evidence, metrics = data["evidence"], run.details.get("metrics", {})
        drawings = {}
        if evidence:
            drawings["differences"] = plots.differences(evidence["deltas"], evidence["metric"])
            estimate = evidence["estimate"]
            if metrics.get("interval"):
                drawings["interval"] = plots.interval(
                    estimate["mean"], estimate["low"], estimate["high"], evidence["metric"]
                )
        if data["curve"]:
            drawings["curve"] = plots.training_curve(data["curve"])
        page = self._pages.get_template("report.html")
        return page.render(
            run=asdict(run),
            outcome=OUTCOMES.get(run.outcome or "", run.state),
            guards=GUARDS,
            slices=SLICES,
            metrics=metrics,
            evidence=evidence,
            drawings=drawings,
        )

    def index(self, runs: Sequence[Run]) -> str:
        rows = [{**asdict(run), "says": OUTCOMES.get(run.outcome or "", run.state)} for run in runs]
        return self._pages.get_template("runs.html").render(runs=rows)


def _interval(estimate: Mapping[str, float | None]) -> str:
    low, high = estimate["low"], estimate["high"]
    return "–" if low is None else f"{low:+.4f} to {high:+.4f}"


def _time(moment: float | None) -> str:
    if moment is None:
        return "–"
    return datetime.datetime.fromtimestamp(moment, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
