"""Click models fitted by expectation maximisation on counts, each with weak priors:

- click rate: two probabilities, wherever a result stands;
- position: examination(rank) × attraction, `liking` or `noise` (Craswell et al. 2008; Chuklin, Markov, de Rijke 2015,
  chapter 4), with a binary relevance: without the noise a lone click looks like certain relevance, and what the present
  model shows first, where noise is clicked most, would seem to be right;
- browsing: examination(rank, distance to the last click above) × attraction (Dupret, Piwowarski 2008), which also fits
  people who read from the top and stop after a click;
- trust: examination(rank) × attraction with a noise of its own at each of the first ranks (after Agarwal et al. 2019),
  for people who click what stands on top because it does.

The prior of relevance is a logistic regression learned in the same rounds (Wang et al. 2018).
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple, TypeVar

import numpy as np
import polars as pl

from .click_models import (
    FEATURES,
    GAPS,
    LEVELS,
    ClickModel,
    Evidence,
    Floats,
    Prior,
    evidence,
    exposure,
    posterior,
    sigmoid,
)

NAMES = ("trust", "position", "click rate", "browsing")
LIKING, NOISE = 0.8, 0.1  # priors of the click rates; less where people seldom click
SHARE = 0.2  # prior of the share of relevant documents at rank 1, which falls with 1/rank
STRENGTH = 50.0  # these count as that many trials each,
LOOKS_STRENGTH = 10.0  # the prior of an examination as that many looks: clicks, which tell of them, are fewer
TRUSTED = 3  # ranks with a noise of their own
MOST_NOISE, MOST_TRUST = 0.5, 0.9  # noise is at most that share of liking: below, and at these ranks
WEIGHT_SPREAD = 0.5  # standard deviation of the prior of a feature's weight, in log-odds for each doubling
LEVEL_ODDS = 3.0  # prior: each level is that many times likelier after a click on a relevant document than on another,
LEVEL_STRENGTH = 10.0  # which counts as that many clicks
ROUNDS, LOOKS_ROUNDS = 300, 10
TOLERANCE = 1e-4
Value = TypeVar("Value", float, Floats)


class Totals(NamedTuple):
    """By rank and distance, each an array of that shape."""

    clicks_right: Floats
    clicks_wrong: Floats
    skips_right: Floats
    skips_wrong: Floats


# The next `right` and `wrong`, of what was seen, the present model and the one it began with and stays near.
Curves = Callable[[Totals, ClickModel, ClickModel], tuple[Floats, Floats]]


def fit(counts: pl.DataFrame, name: str = "position") -> ClickModel:
    """The click model of this name on this log. What is seldom seen stays near its prior, and the richer models near
    the one by position.
    """
    return fit_all(counts, (name,))[name]


def fit_all(counts: pl.DataFrame, names: Sequence[str] = NAMES) -> dict[str, ClickModel]:
    """The models of these names; what only exploration showed is left out, so that the ranks are judged by what rankers
    put there.
    """
    shown = exposure(counts)
    ranked = counts.filter(pl.col("best") > 0)
    seen = evidence(ranked, shown, alike=True)
    ranks = int(seen.rank.max(initial=0)) + 1
    centre = np.average(seen.features, axis=0, weights=seen.times) if len(seen.times) else np.zeros(FEATURES)
    share = _shares(ranks)
    prior = Prior(np.log(share / (1 - share)), np.zeros(FEATURES), centre, shown)
    flat = np.ones((ranks, GAPS))
    looks = flat / np.arange(1.0, ranks + 1)[:, None]
    none = np.zeros(LEVELS)
    eagerness = _eagerness(ranked)
    examined = partial(_examined, eagerness=eagerness)
    liking, noise = LIKING * eagerness, NOISE * eagerness
    found: dict[str, ClickModel] = {}
    if "click rate" in names:
        start = ClickModel("click rate", liking * flat, noise * flat, none, prior)
        found["click rate"] = _maximised(seen, start, partial(examined, over=(0, 1)))
    start = ClickModel("position", liking * looks, noise * looks, none, prior)
    position = found["position"] = _maximised(seen, start, examined)
    if "browsing" in names:
        found["browsing"] = _maximised(seen, replace(position, name="browsing"), partial(examined, over=()))
    if "trust" in names:
        found["trust"] = _maximised(seen, replace(position, name="trust"), partial(examined, trusted=TRUSTED))
    return {name: found[name] for name in names}


def _shares(ranks: int) -> Floats:
    """The prior of the share of relevant documents by rank."""
    return np.asarray(SHARE / np.arange(1.0, ranks + 1))


def _eagerness(ranked: pl.DataFrame) -> float:
    """How much people click at rank 1, as a share of what the priors expect; 1 at most.

    Where people seldom click what is right, a few views of each pair hardly tell this from little that is right: the
    rounds end near where they began.
    """
    top = ranked.filter(pl.col("rank") == 1)
    usual = SHARE * LIKING + (1 - SHARE) * NOISE
    return min(_rate(float(top["clicks"].sum()), float(top["views"].sum()), usual) / usual, 1.0)


def _maximised(seen: Evidence, start: ClickModel, curves: Curves) -> ClickModel:
    """Rounds of expectation and maximisation."""
    model = start
    for _ in range(ROUNDS):
        relevant = posterior(seen, model)
        right, wrong = curves(_totals(seen, relevant, start.right.shape), model, start)
        updated = replace(
            model, right=right, wrong=wrong, later=_later(seen, relevant), prior=_prior(seen, relevant, model.prior)
        )
        moved = max(
            np.abs(updated.right - model.right).max(),
            np.abs(updated.wrong - model.wrong).max(),
            np.abs(updated.share - model.share).max(),
            np.abs(updated.prior.weights - model.prior.weights).max(),
        )
        model = updated
        if moved < TOLERANCE:
            break
    return model


def _totals(seen: Evidence, posterior: Floats, shape: tuple[int, ...]) -> Totals:
    """Clicks and skips of relevant and of other documents, by rank and distance."""
    cell, times = seen.rank * GAPS + seen.gap, seen.times[seen.pair]
    relevant = times * posterior[seen.pair]

    def total(values: Floats) -> Floats:
        return np.bincount(cell, values, int(np.prod(shape))).astype(float).reshape(shape)

    return Totals(*(total(who * what) for what in (seen.clicks, seen.skips) for who in (relevant, times - relevant)))


def _examined(
    seen: Totals,
    model: ClickModel,
    start: ClickModel,
    *,
    eagerness: float,
    over: tuple[int, ...] = (1,),
    trusted: int = 0,
) -> tuple[Floats, Floats]:
    """Examination × attraction; examination is the same over these axes of (rank, distance), noise at all ranks but the
    first `trusted`. Who skipped a result may not have looked at it: an expectation maximisation of its own.
    """
    group = np.minimum(np.arange(len(model.right)), trusted)
    liking, looks, usual = model.right[0, 0], model.right / model.right[0, 0], start.right / start.right[0, 0]
    noise = (model.wrong / looks)[:, :1]
    most = np.where(group < trusted, MOST_TRUST, MOST_NOISE)
    views = (seen.clicks_right + seen.clicks_wrong + seen.skips_right + seen.skips_wrong).sum(over, keepdims=True)
    for _ in range(LOOKS_ROUNDS):
        right = seen.clicks_right + seen.skips_right * looks * (1 - liking) / (1 - looks * liking)
        wrong = seen.clicks_wrong + seen.skips_wrong * looks * (1 - noise) / (1 - looks * noise)
        looks = _rate((right + wrong).sum(over, keepdims=True), views, usual, LOOKS_STRENGTH)
        liking = np.clip(looks[0, 0] * _rate(seen.clicks_right.sum(), right.sum(), LIKING * eagerness), 1e-3, 0.99)
        hits, trials = (np.bincount(group, values.sum(1)).astype(float) for values in (seen.clicks_wrong, wrong))
        noise = np.clip(looks[0, 0] * _rate(hits, trials, NOISE * eagerness)[group], 1e-4, most * liking)[:, None]
        looks = np.clip(looks / looks[0, 0], 1e-3, 1.0)
    return liking * looks, noise * looks


def _later(seen: Evidence, posterior: Floats) -> Floats:
    """Log-odds for relevance of what a click led to, which depends on the click and the relevance alone. Actions that
    this log does not have say nothing.
    """
    relevant = posterior * seen.times
    right, wrong = (share @ seen.levels for share in (relevant, seen.times - relevant))
    usual = (right + wrong) / max((right + wrong).sum(), 1.0)
    tilted = usual * LEVEL_ODDS ** np.arange(LEVELS)
    right = _rate(right, right.sum(), tilted / max(tilted.sum(), 1e-9), LEVEL_STRENGTH)
    wrong = _rate(wrong, wrong.sum(), usual, LEVEL_STRENGTH)
    return np.where(usual > 0, np.log(np.where(usual > 0, right, 1) / np.where(usual > 0, wrong, 1)), 0.0)


def _prior(seen: Evidence, posterior: Floats, prior: Prior) -> Prior:
    """One Newton step of the logistic regression of the posteriors on rank and features."""
    ranks = len(prior.base)
    share = sigmoid(prior.log_odds(seen.best, seen.features))
    missing, doubt = seen.times * (posterior - share), seen.times * share * (1 - share)
    x = seen.features - prior.centre
    usual = sigmoid(prior.base)
    base_slope = np.bincount(seen.best, missing, ranks) + STRENGTH * (_shares(ranks) - usual)
    base_bend = np.bincount(seen.best, doubt, ranks) + STRENGTH * usual * (1 - usual)
    slope = missing @ x - prior.weights / WEIGHT_SPREAD**2
    bend = x.T @ (doubt[:, None] * x) + np.eye(FEATURES) / WEIGHT_SPREAD**2
    cross = np.stack([np.bincount(seen.best, doubt * column, ranks) for column in x.T], axis=1)
    # The block of the ranks is diagonal: eliminated first (Schur complement).
    step = np.linalg.solve(bend - cross.T @ (cross / base_bend[:, None]), slope - cross.T @ (base_slope / base_bend))
    base_step = (base_slope - cross @ step) / base_bend
    return replace(prior, base=prior.base + np.clip(base_step, -1, 1), weights=prior.weights + np.clip(step, -1, 1))


def _rate(hits: Value, trials: Value, prior: Value | float, strength: float = STRENGTH) -> Value:
    return (hits + strength * prior) / (trials + strength)
