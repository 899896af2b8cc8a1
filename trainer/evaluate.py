"""Champion and candidate side by side: what people's clicks say about both."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from operator import attrgetter
from typing import Any

import ir_measures
import numpy as np
import orjson
import polars as pl
from ir_measures import RR, Qrel, R, ScoredDoc

from .sample import Sample

DECIDES = "nDCG@10"
METRICS = (DECIDES, "RR@10", "R@10")
_AS_CLICKED = {RR @ 10: "RR@10", R @ 10: "R@10"}
DEPTH = 10
Ranking = list[str]  # document ids, best first
CHOSEN = 0.5  # posterior relevance from which a document counts as what people chose


@dataclass(frozen=True, slots=True)
class Judged:
    """A query that judges searched `within` a filter; `share` of those who asked it did so within this one.

    `gains`: corrected gains of all shown documents; `noise`: variance and third central moment that noise gives each of
    them, and what one more click is worth; `ideal`: the ideal DCG@10 of the posterior relevances, at least 1
    because whoever asks looks for something, shown or not; `chosen`: documents that are probably relevant, with that
    probability; `visible`: the probability that at least one shown document is relevant, without which no gain can be
    seen.
    """

    query: str
    within: str
    share: float
    cluster: str
    gains: dict[str, float]
    noise: dict[str, tuple[float, float, float]]
    ideal: float
    chosen: dict[str, float]
    visible: float


@dataclass(frozen=True, slots=True)
class Result:
    """One judged query within one filter, under both models.

    nDCG@10 is the DCG@10 of the corrected gains over the mean ideal DCG@10 of all judged queries: unbiased for what
    was shown, so its mean decides, while the value of one query is noisy. RR@10 and R@10 are those of the chosen
    documents, missing where none is known. `champion_unseen` and `candidate_unseen` are the shares of the hits that no
    judge was ever shown. `variance` and `third` are the central moments that noise alone gives to `delta`; `loss` is
    the most that one more click could have taken from it.
    """

    query: str
    within: str
    share: float
    cluster: str
    champion: dict[str, float]  # metric → value
    candidate: dict[str, float]
    champion_hits: list[str]  # document ids, best first
    candidate_hits: list[str]
    chosen: dict[str, float]
    visible: float
    champion_unseen: float
    candidate_unseen: float
    variance: float
    third: float
    loss: float

    @property
    def delta(self) -> float:
        return self.candidate[DECIDES] - self.champion[DECIDES]

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "within": orjson.loads(self.within) if self.within else None}


def judged_queries(judgments: pl.DataFrame, gains: pl.DataFrame, clusters: Mapping[str, str]) -> list[Judged]:
    """Every query that judges searched, also without a click: leaving those out would favour what was shown on top.

    `judgments` hold all pairs of `gains`, which are told apart by `within` too, and know only documents that can still
    be found there.
    """
    both = gains.join(judgments, on=["query", "document_id"]).sort("query", "within", "document_id")
    askers = both.group_by("query", "within").agg(pl.col("views").max())
    shares = askers.select("query", "within", pl.col("views") / pl.col("views").sum().over("query"))
    share_of = {(query, within): share for query, within, share in shares.rows()}
    result = []
    for (query, within), group in both.group_by("query", "within", maintain_order=True):
        relevance = dict(zip(group["document_id"], group["relevance"], strict=True))
        result.append(
            Judged(
                query=str(query),
                within=str(within),
                share=share_of[query, within],
                cluster=clusters[str(query)],
                gains=dict(zip(group["document_id"], group["gain"], strict=True)),
                noise=dict(zip(group["document_id"], group.select("variance", "third", "click").rows(), strict=True)),
                ideal=max(1.0, _dcg(sorted(relevance.values(), reverse=True)[:DEPTH])),
                chosen={document_id: value for document_id, value in relevance.items() if value >= CHOSEN},
                visible=1 - math.prod(1 - value for value in relevance.values()),
            )
        )
    return result


def compare(judged: Sequence[Judged], champion: Sequence[Ranking], candidate: Sequence[Ranking]) -> list[Result]:
    """Both models by the DEPTH documents that each finds best for every judged query."""
    if not judged:
        return []
    runs = champion, candidate
    ideal = float(np.average([item.ideal for item in judged], weights=[item.share for item in judged]))
    scores = [_measure(judged, hits, ideal) for hits in runs]
    noise = [_noise(item, first, second, ideal) for item, first, second in zip(judged, *runs, strict=True)]
    return [
        Result(
            query=item.query,
            within=item.within,
            share=item.share,
            cluster=item.cluster,
            champion=scores[0][i],
            candidate=scores[1][i],
            champion_hits=runs[0][i],
            candidate_hits=runs[1][i],
            chosen=item.chosen,
            visible=item.visible,
            champion_unseen=_unseen(item, runs[0][i]),
            candidate_unseen=_unseen(item, runs[1][i]),
            variance=noise[i][0],
            third=noise[i][1],
            loss=noise[i][2],
        )
        for i, item in enumerate(judged)
    ]


def _measure(judged: Sequence[Judged], hits: Sequence[Ranking], ideal: float) -> list[dict[str, float]]:
    """Metrics per query. Corrected gains may be negative, which no library of metrics takes, so their DCG is summed
    here; the others come from ir-measures, with negative ranks as scores because trec_eval breaks ties by id.
    """
    values = [
        {DECIDES: _dcg(item.gains.get(document_id, 0.0) for document_id in row) / ideal}
        for item, row in zip(judged, hits, strict=True)
    ]
    qrels = [Qrel(str(i), document_id, 1) for i, item in enumerate(judged) for document_id in item.chosen]
    run = [
        ScoredDoc(str(i), document_id, -float(rank))
        for i, row in enumerate(hits)
        for rank, document_id in enumerate(row)
    ]
    for metric in ir_measures.iter_calc(list(_AS_CLICKED), qrels, run) if qrels else ():
        values[int(metric.query_id)][_AS_CLICKED[metric.measure]] = float(metric.value)
    return values


def _noise(item: Judged, champion: Ranking, candidate: Ranking, ideal: float) -> tuple[float, float, float]:
    """Of the difference, to which every gain adds with what its document's discount changes by."""
    weights = defaultdict[str, float](float)
    for sign, hits in ((-1, champion), (1, candidate)):
        for rank, document_id in enumerate(hits[:DEPTH], 1):
            weights[document_id] += sign * _discount(rank) / ideal
    total = third = loss = 0.0
    for document_id, weight in weights.items():
        if document_id in item.noise:
            variance, cube, click = item.noise[document_id]
            total, third, loss = total + weight**2 * variance, third + weight**3 * cube, max(loss, -weight * click)
    return total, third, loss


def _unseen(item: Judged, hits: Sequence[str]) -> float:
    return sum(document_id not in item.gains for document_id in hits) / len(hits)


def _dcg(gains: Iterable[float]) -> float:
    return sum(gain * _discount(rank) for rank, gain in enumerate(gains, 1))


def _discount(rank: int) -> float:
    return 1 / math.log2(rank + 1)


@dataclass(frozen=True, slots=True)
class Unit:
    """A cluster of near-duplicate queries, in sums over `times` nights: the mean differences of its queries, the second
    and third central moments that noise alone gives to these, and the most that one more click could take from one.
    """

    times: int
    delta: float
    variance: float
    third: float
    loss: float

    def __add__(self, other: "Unit") -> "Unit":
        """With other nights: nobody's clicks of one depend on those of another."""
        return Unit(
            self.times + other.times,
            self.delta + other.delta,
            self.variance + other.variance,
            self.third + other.third,
            max(self.loss, other.loss),
        )


def units(results: Sequence[Result]) -> dict[str, Unit]:
    """Of each cluster, by one night."""
    return {found[0].cluster: _unit(found) for found in _clusters(results)}


def _unit(found: Sequence[Result]) -> Unit:
    whole = sum(one.share for one in found)
    shares = [(one.share / whole, one) for one in found]
    return Unit(
        times=1,
        delta=sum(share * one.delta for share, one in shares),
        variance=sum(share**2 * one.variance for share, one in shares),
        third=sum(share**3 * one.third for share, one in shares),
        loss=max(share * one.loss for share, one in shares),
    )


def with_night(known: Mapping[str, Unit], tonight: Mapping[str, Unit]) -> dict[str, Unit]:
    """What is known of each cluster, and what one more night says of some."""
    return {**known, **{key: known[key] + unit if key in known else unit for key, unit in tonight.items()}}


def evidence(results: Sequence[Result]) -> Sample:
    """The units of a night as evidence."""
    return sample_of(units(results).values())


def sample_of(found: Iterable[Unit]) -> Sample:
    """The mean difference of each cluster over its nights. Nobody's clicks on one query depend on those on another, so
    what noise gives to them adds up.
    """
    every = list(found)
    return Sample.of(
        [one.delta / one.times for one in every],
        sum(one.variance / one.times**2 for one in every),
        sum(one.third / one.times**3 for one in every),
        [one.loss / one.times for one in every],
    )


def by_cluster(results: Sequence[Result], value: Callable[[Result], float]) -> list[float]:
    """The mean of the value over the queries of each cluster, in which the filters of one count by their askers."""
    return [_mean(found, value) for found in _clusters(results)]


def _clusters(results: Sequence[Result]) -> list[list[Result]]:
    clusters: dict[str, list[Result]] = {}
    for result in results:
        clusters.setdefault(result.cluster, []).append(result)
    return list(clusters.values())


def summary(results: Sequence[Result], side: str) -> dict[str, float]:
    """Means of every metric of "champion" or "candidate" over the queries that have it."""
    return {name: _mean_metric(results, side, name) for name in METRICS}


def visibility(results: Sequence[Result]) -> dict[str, float]:
    """What these results can see, as means over the queries: the probability that a shown document is relevant at all,
    and the share of each side's hits that no judge was ever shown and that therefore count as nothing.
    """
    if not results:
        return {}
    names = ("visible", "champion_unseen", "candidate_unseen")
    return {name: _mean(results, attrgetter(name)) for name in names}


def _mean_metric(results: Sequence[Result], side: str, name: str) -> float:
    having = [result for result in results if name in getattr(result, side)]
    return _mean(having, lambda result: getattr(result, side)[name]) if having else 0.0


def _mean(results: Sequence[Result], value: Callable[[Result], float]) -> float:
    """Over the queries."""
    return float(np.average([value(result) for result in results], weights=[result.share for result in results]))
