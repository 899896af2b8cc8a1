"""Evidence as sums: what independent units say of two models, and how certain that is."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

INTERVAL_Z = 1.96  # two-sided 95 %


class Estimate(ABC):
    """A mean of `n` units with its standard error."""

    __slots__ = ()
    n: int

    @property
    @abstractmethod
    def mean(self) -> float: ...

    @property
    @abstractmethod
    def error(self) -> float:
        """Standard error of the mean; infinite for fewer than two units."""

    @property
    def low(self) -> float:
        """Lower end of the 95 % interval of the mean."""
        return self.mean - INTERVAL_Z * self.error

    @property
    def high(self) -> float:
        return self.mean + INTERVAL_Z * self.error


@dataclass(frozen=True, slots=True)
class Sample(Estimate):
    """Differences, candidate minus champion, of independent units, as sums: samples of different units add up.

    `variance` and `third` are sums too: of the second and third central moments that each unit must at least have,
    drawn or not; `loss_squares` and `loss_cubes` are those of what each unit may lose, 1 at least. Where a click is
    rare, a few units may hold none, and what they say is then far too certain.
    """

    n: int = 0
    total: float = 0.0
    squares: float = 0.0
    cubes: float = 0.0
    largest: float = 0.0  # absolute difference
    variance: float = 0.0
    third: float = 0.0
    loss_squares: float = 0.0
    loss_cubes: float = 0.0

    @classmethod
    def of(
        cls, differences: Sequence[float], variance: float = 0.0, third: float = 0.0, losses: Sequence[float] = ()
    ) -> "Sample":
        values = np.asarray(differences, dtype=np.float64)
        if not len(values):
            return cls()
        squares = values * values
        total, second, cubes = float(values.sum()), float(squares.sum()), float((squares * values).sum())
        lost = np.maximum(losses, 1.0) if len(losses) else np.ones(len(values))
        more = variance, third, float((lost**2).sum()), float((lost**3).sum())
        return cls(len(values), total, second, cubes, float(np.abs(values).max()), *more)

    def __add__(self, other: "Sample") -> "Sample":
        return Sample(
            self.n + other.n,
            self.total + other.total,
            self.squares + other.squares,
            self.cubes + other.cubes,
            max(self.largest, other.largest),
            self.variance + other.variance,
            self.third + other.third,
            self.loss_squares + other.loss_squares,
            self.loss_cubes + other.loss_cubes,
        )

    @property
    def mean(self) -> float:
        return self.total / self.n if self.n else 0.0

    @property
    def error(self) -> float:
        """Standard error of the mean; infinite for fewer than two units."""
        if self.n < 2:
            return math.inf
        return math.sqrt(max(self._central_squares(), 0.0) / (self.n - 1) / self.n)

    @property
    def z(self) -> float:
        """Mean in standard errors; 0 where there is no noise to measure it against."""
        if self.n < 2 or self.error <= 1e-7 * self.largest:
            return 0.0
        return self.mean / self.error

    @property
    def lean(self) -> float:
        """How far the units lean to large losses: their skewness with the sign turned, and 0 where that is negative."""
        spread = self._central_squares() / self.n if self.n else 0.0
        if spread <= 1e-14 * self.largest**2 or not spread:
            return 0.0
        drawn = self.cubes - 3 * self.mean * self.squares + 2 * self.n * self.mean**3
        return float(max(-min(drawn, self.third) / self.n / spread**1.5, 0.0))

    @property
    def loss(self) -> float:
        """What a rare loss is worth: the mean over the units of what they may lose, by its square."""
        return self.loss_cubes / self.loss_squares if self.loss_squares else 1.0

    @property
    def p_value(self) -> float:
        """One-sided, of "the mean is not above 0", guarded where the normal tail is too thin.

        p = (1 − Φ(z)) · exp(lean · z³ / (3√n) + z⁴ / (4n)) + (1 + mean / loss)⁻ⁿ. The first term is after the
        Cramér-type deviations of Student's t in Jing, Shao, Wang (2003); without the lean a left-skewed null is
        rejected dozens of times too often. The second is the chance that n units hold none of the rare losses that
        would make their mean 0: of a share q = mean / (loss + mean), (1 − q)ⁿ. Of these the first term knows nothing.
        That chance is greatest when those units lose that may lose most, so they count most in `loss`.
        """
        from scipy.special import log_ndtr  # half a second that a service which only reads decisions is spared

        if self.z <= 0:
            return 1.0
        root = math.sqrt(self.n)
        lean = self.lean
        # Beyond this z the correction would grow faster than the evidence.
        z = min(self.z, root * (math.sqrt(lean**2 + 4) - lean) / 2)
        log_tail = float(log_ndtr(-z)) + lean * z**3 / (3 * root) + z**4 / (4 * self.n)
        return min(math.exp(min(log_tail, 0.0)) + math.exp(-self.n * math.log1p(self.mean / self.loss)), 1.0)

    def _central_squares(self) -> float:
        return max(self.squares - self.total**2 / self.n, self.variance)
