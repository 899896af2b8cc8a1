"""From clicks to judgments: a position-based click model fitted by expectation maximisation.

A click means "examined and liked": P(click) = examination(rank) × relevance(query, document) (Craswell et al. 2008;
the updates are those of Chuklin, Markov, de Rijke 2015, chapter 4, with Beta priors on both factors).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.stats import beta

PRIOR_STRENGTH = 2.0  # a pair's prior counts as much as this many examinations
EXAMINATION_STRENGTH = 20.0  # a rank's prior counts as much as this many views
ROUNDS = 200
TOLERANCE = 1e-5
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Examination:
    """Probability of looking at each rank, relative to rank 1, and the mean relevance it was fitted with."""

    by_rank: Floats  # by_rank[r - 1] belongs to rank r
    mean_relevance: float


def count_people(log: pl.DataFrame) -> pl.DataFrame:
    """One row per (query, document, rank): how many people saw the document there, how many of them clicked.

    A person counts once for a pair, at the rank of the click or else at the best rank shown, so that nobody gains
    weight by repeating.
    """
    people = (
        log.sort("clicked", "rank", descending=[True, False])
        .group_by("query", "person", "document_id", maintain_order=True)
        .agg(pl.col("clicked").first(), pl.col("rank").first())
    )
    return (
        people.group_by("query", "document_id", "rank")
        .agg(views=pl.len().cast(pl.Float64), clicks=pl.col("clicked").sum().cast(pl.Float64))
        .sort("query", "document_id", "rank")
    )


def estimate_examination(counts: pl.DataFrame) -> Examination:
    """Fits examination and relevance together; ranks seldom seen stay near the prior 1/rank."""
    ranks = int(counts["rank"].max() or 1)  # type: ignore[arg-type]
    prior = 1.0 / np.arange(1, ranks + 1)
    rank, views, clicks = _columns(counts)
    pair = _pair(counts)
    mean = float(np.clip(clicks.sum() / max((views * prior[rank]).sum(), 1.0), 0.02, 0.5))
    examination, relevance = prior.copy(), np.full(int(pair.max(initial=-1)) + 1, mean)
    for _ in range(ROUNDS):
        looked, liked = _expect(examination[rank], relevance[pair])
        skipped = views - clicks
        seen = clicks + skipped * looked
        updated = (np.bincount(rank, seen, ranks) + EXAMINATION_STRENGTH * prior) / (
            np.bincount(rank, views, ranks) + EXAMINATION_STRENGTH
        )
        updated = np.clip(updated / updated[0], 1e-3, 1.0)
        relevance = (np.bincount(pair, clicks + skipped * liked) + PRIOR_STRENGTH * mean) / (
            np.bincount(pair, views) + PRIOR_STRENGTH
        )
        moved = np.abs(updated - examination).max()
        examination = updated
        if moved < TOLERANCE:
            break
    return Examination(examination, mean)


def judge(counts: pl.DataFrame, examination: Examination) -> pl.DataFrame:
    """Judgments: query, document_id, relevance (posterior mean) with its central 90 % interval (low, high), clicks,
    views, `examined` (expected examinations) and `found` (the probability that somebody would have clicked).
    """
    rank, views, clicks = _columns(counts)
    looks = examination.by_rank[np.minimum(rank, len(examination.by_rank) - 1)]
    pair = _pair(counts)
    keys = counts.select("query", "document_id").with_columns(pair=pair)
    a, b = PRIOR_STRENGTH * examination.mean_relevance, PRIOR_STRENGTH * (1 - examination.mean_relevance)
    total_clicks, total_views = np.bincount(pair, clicks), np.bincount(pair, views)
    relevance = np.full(len(total_clicks), examination.mean_relevance)
    for _ in range(ROUNDS):
        looked, _liked = _expect(looks, relevance[pair])
        examined = total_clicks + np.bincount(pair, (views - clicks) * looked)
        updated = (a + total_clicks) / (a + b + examined)
        moved = np.abs(updated - relevance).max(initial=0.0)
        relevance = updated
        if moved < TOLERANCE:
            break
    unseen = np.bincount(pair, views * np.log1p(-np.minimum(looks * relevance[pair], 1 - 1e-9)))
    first, second = a + total_clicks, b + examined - total_clicks
    return (
        keys.unique("pair")
        .sort("pair")
        .drop("pair")
        .with_columns(
            relevance=relevance,
            low=beta.ppf(0.05, first, second),
            high=beta.ppf(0.95, first, second),
            clicks=total_clicks,
            views=total_views,
            examined=examined,
            found=1 - np.exp(unseen),
        )
    )


def _expect(looks: Floats, relevance: Floats) -> tuple[Floats, Floats]:
    """For a result that was not clicked: the probabilities that it was examined, and that it is relevant."""
    no_click = 1 - looks * relevance
    return looks * (1 - relevance) / no_click, relevance * (1 - looks) / no_click


def _pair(counts: pl.DataFrame) -> npt.NDArray[np.int64]:
    """The number of each row's (query, document), counted in their order."""
    numbers = counts.select(pl.struct("query", "document_id").rank("dense").cast(pl.Int64) - 1)
    return numbers.to_series().to_numpy().astype(np.int64)


def _columns(counts: pl.DataFrame) -> tuple[npt.NDArray[np.int64], Floats, Floats]:
    rank = counts["rank"].to_numpy().astype(np.int64) - 1
    return rank, counts["views"].to_numpy().astype(float), counts["clicks"].to_numpy().astype(float)
