"""The gate: does the evidence suffice to promote?

A pure function of the measurements and of how many looks were taken before. Look k may err with probability a_k, and
the a_k sum to less than .05 for ever: by the union bound the chance that any night of a whole life promotes a model
that is not better stays below .05, whatever the dependence between nights, candidates and reused queries.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm, skew

from .recipe import Promotion

SCREEN_Z = 0.5  # on the development split; candidates below are not worth a look
INTERVAL_Z = 1.96  # two-sided 95 %
FIRST_LOOKS = 7
FIRST_LOOKS_BONUS = 2e-4


@dataclass(frozen=True, slots=True)
class Estimate:
    """Mean difference, candidate minus champion, with its standard error and 95 % interval; `n` independent units."""

    mean: float
    error: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class Decision:
    """`outcome`: promoted, rejected or not_enough_evidence. `look` is 0 when none was spent."""

    outcome: str
    reasons: tuple[str, ...]
    estimate: Estimate
    look: int = 0
    level: float = 0.0
    p_value: float = 1.0


def level(look: int) -> float:
    """a_k = .036 · 150 / ((k + 149)(k + 150)), and 2e-4 more for k ≤ 7. The sum over all k is .0374."""
    bonus = FIRST_LOOKS_BONUS if look <= FIRST_LOOKS else 0.0
    return 0.036 * 150 / ((look + 149) * (look + 150)) + bonus


def decide(holdout: Sequence[float], development: Sequence[float], looks: int, dials: Promotion) -> Decision:
    """`holdout` and `development` hold one difference per independent unit; `looks` were taken in earlier nights."""
    found = estimate(holdout)
    if found.n < dials.min_queries:
        reason = f"{found.n} judged query clusters; at least {dials.min_queries} are needed. No look was spent"
        return Decision("not_enough_evidence", (reason,), found)
    early = estimate(development)
    z = early.mean / early.error if early.error > 0 else math.copysign(math.inf, early.mean) if early.mean else 0.0
    if z <= SCREEN_Z:
        reason = (
            f"on the development split the candidate gains {early.mean:+.4f} ± {early.error:.4f} (z = {z:.2f}, "
            f"needed > {SCREEN_Z:g}, {early.n} clusters): not worth a look at the holdout. No look was spent"
        )
        return Decision("rejected", (reason,), found)
    look = looks + 1
    a, p = level(look), guarded_p(holdout)
    facts = (
        f"the candidate changes nDCG@10 by {found.mean:+.4f} (95 % interval {found.low:+.4f} to {found.high:+.4f}) "
        f"on {found.n} query clusters that it was not trained on",
        f"look {look} of this service's life: p = {p:.2g}, allowed a = {a:.2g}",
    )
    if p <= a and found.mean >= dials.min_effect:
        return Decision("promoted", (*facts, "p ≤ a: it is really better"), found, look, a, p)
    if found.high < dials.min_effect or found.mean <= 0:
        reason = "it is not better" if found.mean <= 0 else f"a gain of {dials.min_effect:g} can be ruled out"
        return Decision("rejected", (*facts, reason), found, look, a, p)
    if p <= a:
        reason = f"it is better, but by less than the smallest gain worth a switch ({dials.min_effect:g})"
        return Decision("rejected", (*facts, reason), found, look, a, p)
    return Decision("not_enough_evidence", (*facts, "p > a: this could be chance"), found, look, a, p)


def estimate(values: Sequence[float]) -> Estimate:
    n = len(values)
    if n < 2:
        return Estimate(float(np.mean(values)) if n else 0.0, math.inf, -math.inf, math.inf, n)
    mean, error = float(np.mean(values)), float(np.std(values, ddof=1) / math.sqrt(n))
    return Estimate(mean, error, mean - INTERVAL_Z * error, mean + INTERVAL_Z * error, n)


def guarded_p(values: Sequence[float]) -> float:
    """One-sided p-value of "the mean is not above 0", guarded where the normal tail is too thin.

    ln p = ln(1 − Φ(z)) + max(−skew, 0) · z³ / (3√n) + z⁴ / (4n), after the Cramér-type deviations of Student's t in
    Jing, Shao, Wang (2003). Without the skew term a left-skewed null is rejected dozens of times too often.
    """
    found = estimate(values)
    if found.n < 2 or found.mean <= 0:
        return 1.0
    if found.error < 1e-12 * max(abs(value) for value in values):
        return 1.0  # every unit the same: no noise to measure the mean against
    root = math.sqrt(found.n)
    lean = max(-float(skew(values)), 0.0)
    # Beyond this z the correction would grow faster than the evidence.
    z = min(found.mean / found.error, root * (math.sqrt(lean**2 + 4) - lean) / 2)
    log_p = float(norm.logsf(z)) + lean * z**3 / (3 * root) + z**4 / (4 * found.n)
    return math.exp(min(log_p, 0.0))
