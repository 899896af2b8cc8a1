"""From clicks to judgments: a position-based click model with noise, fitted by expectation maximisation.

P(click) = examination(rank) × attraction, and attraction is `liking` for a relevant document and `noise` for any other:
the position-based model (Craswell et al. 2008; Chuklin, Markov, de Rijke 2015, chapter 4) with a binary relevance.
Without the noise term a lone click looks like certain relevance, and the documents that the present model shows first,
where noise is clicked most, would seem to be the right ones.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from ..retriever.explore import EXPLORATION

EXAMINATION_STRENGTH = 50.0  # a rank's prior, 1/rank, counts as much as this many views
RATE_STRENGTH = 50.0  # the priors of liking, noise and the share of relevant documents count as many trials
LIKING, NOISE, SHARE = 0.8, 0.1, 0.05  # these priors
EXPLORED = 0.01  # share of relevant documents among those that only exploration showed; too few to be fitted
MIN_EXAMINATION = 0.1  # one click counts as at most ten looks
ROUNDS = 300
TOLERANCE = 1e-5
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ClickModel:
    """`examination[r - 1]` is the probability of looking at rank r, relative to rank 1. `liking` and `noise` are the
    probabilities of a click on a relevant and on any other document that was looked at; `share[r - 1]` is how many of
    the documents shown at rank r are relevant: a ranker worth its name has more of them on top.
    """

    examination: Floats
    liking: float
    noise: float
    share: Floats

    def clicked(self, rank: Ints) -> tuple[Floats, Floats]:
        """Click probabilities at ranks counted from 0: of a relevant and of any other document."""
        looks = self.examination[np.minimum(rank, len(self.examination) - 1)]
        return looks * self.liking, looks * self.noise


def count_people(log: pl.DataFrame) -> pl.DataFrame:
    """One row per (query, document, rank): how many people saw the document there, how many of them clicked; `best` is
    the best rank at which a ranker ever put the document, or 0 where only exploration showed it.

    A person counts once for a pair, at the rank of the click or else at the best rank shown, so that nobody gains
    weight by repeating.
    """
    ranked = pl.col("rank").filter(pl.col("ranker") != EXPLORATION)
    people = (
        log.with_columns(best=ranked.min().over("query", "document_id").fill_null(0))
        .sort("clicked", "rank", descending=[True, False])
        .group_by("query", "person", "document_id", maintain_order=True)
        .agg(pl.col("clicked").first(), pl.col("rank").first(), pl.col("best").first())
    )
    return (
        people.group_by("query", "document_id", "rank", "best")
        .agg(views=pl.len().cast(pl.Float64), clicks=pl.col("clicked").sum().cast(pl.Float64))
        .sort("query", "document_id", "rank")
    )


def fit(counts: pl.DataFrame) -> ClickModel:
    """The click model of this log; what is seldom seen stays near its prior. What only exploration showed is left out,
    so that the ranks are judged by what rankers put there.
    """
    counts = counts.filter(pl.col("best") > 0)
    ranks = int(counts["rank"].max() or 1)  # type: ignore[arg-type]
    prior = 1.0 / np.arange(1, ranks + 1)
    rank, views, clicks = _columns(counts)
    pair = _pair(counts)
    skips = views - clicks
    best = _best_rank(counts, pair)
    pairs_at = np.bincount(best, minlength=ranks)
    model = ClickModel(prior, LIKING, NOISE, np.full(ranks, SHARE))
    for _ in range(ROUNDS):
        posterior = _posterior(pair, best, rank, views, clicks, model)
        relevant = posterior[pair]
        right, wrong = model.clicked(rank)
        looks = model.examination[rank]
        # How probably a skipped result was looked at, if it is relevant and if it is not.
        seen_right = looks * (1 - model.liking) / (1 - right)
        seen_wrong = looks * (1 - model.noise) / (1 - wrong)
        looked = clicks + skips * (relevant * seen_right + (1 - relevant) * seen_wrong)
        examination = (np.bincount(rank, looked, ranks) + EXAMINATION_STRENGTH * prior) / (
            np.bincount(rank, views, ranks) + EXAMINATION_STRENGTH
        )
        liking = _rate((relevant * clicks).sum(), (relevant * (clicks + skips * seen_right)).sum(), LIKING)
        noise = _rate(((1 - relevant) * clicks).sum(), ((1 - relevant) * (clicks + skips * seen_wrong)).sum(), NOISE)
        share = (np.bincount(best, posterior, ranks) + RATE_STRENGTH * SHARE) / (pairs_at + RATE_STRENGTH)
        updated = ClickModel(
            np.clip(examination / examination[0], 1e-3, 1.0),
            float(np.clip(liking * examination[0], 0.05, 0.99)),
            float(np.clip(noise * examination[0], 1e-4, 0.5 * liking * examination[0])),
            share,
        )
        moved = max(
            np.abs(updated.examination - model.examination).max(),
            np.abs(updated.share - model.share).max(),
            abs(updated.liking - model.liking),
            abs(updated.noise - model.noise),
        )
        model = updated
        if moved < TOLERANCE:
            break
    return model


def judge(counts: pl.DataFrame, model: ClickModel) -> pl.DataFrame:
    """Judgments: query, document_id, `relevance` (posterior probability that the document is relevant) with its
    standard deviation (`error`), clicks and views.
    """
    rank, views, clicks = _columns(counts)
    pair = _pair(counts)
    relevance = _posterior(pair, _best_rank(counts, pair), rank, views, clicks, model)
    keys = counts.select("query", "document_id").with_columns(pair=pair)
    return (
        keys.unique("pair")
        .sort("pair")
        .drop("pair")
        .with_columns(
            relevance=relevance,
            error=np.sqrt(relevance * (1 - relevance)),
            clicks=np.bincount(pair, clicks),
            views=np.bincount(pair, views),
        )
    )


def corrected_gains(counts: pl.DataFrame, model: ClickModel) -> pl.DataFrame:
    """For every shown document of a query its `gain`: an estimate of its relevance whose expectation is 1 for a
    relevant and 0 for any other document, whatever the rank. Single estimates are noisy, and may be negative.

    Inverse propensity scoring (Joachims, Swaminathan, Schnabel 2017) with the clicks that noise explains subtracted:
    gain = Σ (clicks − noise · examination · views) / examination / ((liking − noise) · Σ views). Examinations below
    MIN_EXAMINATION count as that, which shrinks the gain towards 0.
    """
    rank, views, clicks = _columns(counts)
    looks = model.examination[np.minimum(rank, len(model.examination) - 1)]
    excess = (clicks - model.noise * looks * views) / np.maximum(looks, MIN_EXAMINATION)
    frame = counts.select("query", "document_id", "views").with_columns(excess=excess / (model.liking - model.noise))
    return (
        frame.group_by("query", "document_id", maintain_order=True)
        .agg(gain=pl.col("excess").sum() / pl.col("views").sum())
        .sort("query", "document_id")
    )


def _posterior(pair: Ints, best: Ints, rank: Ints, views: Floats, clicks: Floats, model: ClickModel) -> Floats:
    """The probability that each pair is relevant, by Bayes over all its views."""
    right, wrong = model.clicked(rank)
    skips = views - clicks
    evidence = clicks * np.log(right / wrong) + skips * (np.log1p(-right) - np.log1p(-wrong))
    share = np.where(best < 0, EXPLORED, model.share[np.clip(best, 0, len(model.share) - 1)])
    odds = np.bincount(pair, evidence) + np.log(share / (1 - share))
    return np.asarray(1 / (1 + np.exp(-np.clip(odds, -30, 30))))


def _best_rank(counts: pl.DataFrame, pair: Ints) -> Ints:
    """The best rank of each pair, from 0, or -1 where only exploration showed it."""
    best = np.zeros(int(pair.max(initial=-1)) + 1, dtype=np.int64)
    best[pair] = counts["best"].to_numpy().astype(np.int64) - 1
    return best


def _rate(hits: float, trials: float, prior: float) -> float:
    return (hits + RATE_STRENGTH * prior) / (trials + RATE_STRENGTH)


def _pair(counts: pl.DataFrame) -> Ints:
    """The number of each row's (query, document), counted in their order."""
    numbers = counts.select(pl.struct("query", "document_id").rank("dense").cast(pl.Int64) - 1)
    return numbers.to_series().to_numpy().astype(np.int64)


def _columns(counts: pl.DataFrame) -> tuple[Ints, Floats, Floats]:
    rank = counts["rank"].to_numpy().astype(np.int64) - 1
    return rank, counts["views"].to_numpy().astype(float), counts["clicks"].to_numpy().astype(float)
