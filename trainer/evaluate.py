"""Champion and candidate side by side: per-query metrics on what people's clicks say about both."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import ir_measures
import numpy as np
import numpy.typing as npt
import polars as pl
from ir_measures import RR, Qrel, R, ScoredDoc, nDCG

from ..retriever.shadow import ShadowIndex
from ..retriever.types import Keys, Vectors

METRICS = ("nDCG@10", "RR@10", "R@10")
DECIDES = "nDCG@10"
_MEASURES = {"nDCG@10": nDCG @ 10, "RR@10": RR @ 10, "R@10": R @ 10}
DEPTH = 10
GRADES = 1000  # a gain of 1 becomes this integer, as the qrels format wants one
MIN_FOUND = 0.2  # a click at a place where it was less likely counts as if it had been this likely


@dataclass(frozen=True, slots=True)
class Judged:
    """A query with clicks.

    The gain of a clicked document is its posterior relevance divided by the probability that it would have been found
    where it was shown (Horvitz and Thompson 1952): without that, what the champion shows on top would count more. The
    weight is the ideal DCG@10 of the gains, so that a query counts by how much is known of it, and the weighted mean
    of nDCG@10 is the sum of all DCG over the sum of all ideal DCG.
    """

    query: str
    cluster: str
    weight: float
    gains: dict[str, float]  # by document id, of clicked documents


@dataclass(frozen=True, slots=True)
class Result:
    """One judged query under both models."""

    query: str
    cluster: str
    weight: float
    champion: dict[str, float]  # metric → value
    candidate: dict[str, float]
    champion_hits: list[str]  # document ids, best first
    candidate_hits: list[str]
    relevant: dict[str, float]

    @property
    def delta(self) -> float:
        return self.candidate[DECIDES] - self.champion[DECIDES]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def judged_queries(judgments: pl.DataFrame, clusters: Mapping[str, str], alive: Mapping[str, int]) -> list[Judged]:
    """Queries with at least one clicked document that still exists; others say nothing about either model."""
    clicked = judgments.filter(pl.col("clicks") > 0).filter(pl.col("document_id").is_in(list(alive)))
    result = []
    for (query,), group in clicked.sort("query", "document_id").group_by("query", maintain_order=True):
        gains = dict(zip(group["document_id"], group["relevance"] / group["found"].clip(MIN_FOUND), strict=True))
        result.append(Judged(str(query), clusters[str(query)], _ideal_dcg(gains.values()), gains))
    return result


def _ideal_dcg(gains: Iterable[float]) -> float:
    best = sorted(gains, reverse=True)[:DEPTH]
    return sum(gain / math.log2(rank + 1) for rank, gain in enumerate(best, 1))


def compare(
    judged: Sequence[Judged],
    champion: tuple[ShadowIndex, Vectors],
    candidate: tuple[ShadowIndex, Vectors],
    ids: Mapping[int, str],
) -> list[Result]:
    """Ranks the whole corpus exactly with both models; each comes with its vectors of the judged queries."""
    if not judged:
        return []
    runs = [_run(*side, ids) for side in (champion, candidate)]
    scores = [_measure(judged, hits) for hits in runs]
    return [
        Result(
            query=item.query,
            cluster=item.cluster,
            weight=item.weight,
            champion=scores[0][i],
            candidate=scores[1][i],
            champion_hits=runs[0][i],
            candidate_hits=runs[1][i],
            relevant=item.gains,
        )
        for i, item in enumerate(judged)
    ]


def _run(index: ShadowIndex, vectors: Vectors, ids: Mapping[int, str]) -> list[list[str]]:
    keys: Keys = index.query(vectors, DEPTH)[0]
    return [[ids[int(key)] for key in row] for row in keys]


def _measure(judged: Sequence[Judged], hits: Sequence[Sequence[str]]) -> list[dict[str, float]]:
    """Metrics per query; trec_eval breaks ties by id, so scores are the negative ranks."""
    qrels = [
        Qrel(str(i), document_id, max(1, round(gain * GRADES)))
        for i, item in enumerate(judged)
        for document_id, gain in item.gains.items()
    ]
    run = [
        ScoredDoc(str(i), document_id, -float(rank))
        for i, row in enumerate(hits)
        for rank, document_id in enumerate(row)
    ]
    values: list[dict[str, float]] = [dict.fromkeys(METRICS, 0.0) for _ in judged]
    names = {measure: name for name, measure in _MEASURES.items()}
    for metric in ir_measures.iter_calc(list(_MEASURES.values()), qrels, run):
        values[int(metric.query_id)][names[metric.measure]] = float(metric.value)
    return values


@dataclass(frozen=True, slots=True)
class Evidence:
    """Independent units, the query clusters: their weighted differences divided by the mean weight, so that the mean
    of `values` is the estimated gain.
    """

    values: tuple[float, ...]
    queries: int

    @property
    def estimate(self) -> float:
        return float(np.mean(self.values)) if self.values else 0.0


def evidence(results: Sequence[Result]) -> Evidence:
    """One value a cluster: the mean over its queries."""
    if not results:
        return Evidence((), 0)
    frame = pl.DataFrame(
        {
            "cluster": [result.cluster for result in results],
            "weight": [result.weight for result in results],
            "weighted": [result.weight * result.delta for result in results],
        }
    )
    clusters = frame.group_by("cluster", maintain_order=True).agg(pl.col("weight").mean(), pl.col("weighted").mean())
    mean_weight = float(clusters["weight"].to_numpy().mean())
    return Evidence(tuple(float(x) / mean_weight for x in clusters["weighted"]), len(results))


def summary(results: Sequence[Result], side: str) -> dict[str, float]:
    """Weighted means of every metric of "champion" or "candidate"."""
    weights: npt.NDArray[np.float64] = np.array([result.weight for result in results])
    values = {name: np.array([getattr(result, side)[name] for result in results]) for name in METRICS}
    return {
        name: float(np.average(column, weights=weights)) if len(results) else 0.0 for name, column in values.items()
    }
