"""Votes: which of two models people prefer, who saw both where they differ."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from .sample import Estimate

# 1 / (4 (1 − Φ(√2))): the least factor with which the normal tail bounds every weighted sum of random signs.
SIGNS = 3.178


class Vote(NamedTuple):
    """1 for the challenger, −1 for the champion, 0 for neither; and the query cluster that it was about."""

    value: int
    cluster: str


@dataclass(frozen=True, slots=True)
class Votes(Estimate):
    """Of `n` people with a vote each, 0s included: `lead`, those for the challenger less those for the champion. The
    lead of every query cluster by itself enters as sums: of its square (`squares`), of its size (`sizes`), and of the
    root of its size with its sign (`roots`).

    Whoever asks the same sees the same two rankings, and will mostly agree: which is better for one query is one draw,
    however many ask it. So the query clusters are the units, and the root keeps the query of the day from drowning
    what all others say.
    """

    n: int = 0
    lead: int = 0
    squares: int = 0
    sizes: int = 0
    roots: float = 0.0

    @classmethod
    def of(cls, people: int, leads: Iterable[int]) -> "Votes":
        """`leads`: of each query cluster."""
        found = sorted(leads)
        return cls(
            n=people,
            lead=sum(found),
            squares=sum(lead * lead for lead in found),
            sizes=sum(abs(lead) for lead in found),
            roots=sum(math.copysign(math.sqrt(abs(lead)), lead) for lead in found),
        )

    def __add__(self, other: "Votes") -> "Votes":
        """With votes of other people about other query clusters."""
        return Votes(
            self.n + other.n,
            self.lead + other.lead,
            self.squares + other.squares,
            self.sizes + other.sizes,
            self.roots + other.roots,
        )

    @property
    def mean(self) -> float:
        return self.lead / self.n if self.n else 0.0

    @property
    def error(self) -> float:
        """Standard error of the mean; infinite for fewer than two people."""
        return math.sqrt(self.squares) / self.n if self.n > 1 else math.inf

    @property
    def z(self) -> float:
        """The sum of roots in its standard deviations, if every query cluster had a random sign."""
        return self.roots / math.sqrt(self.sizes) if self.sizes else 0.0

    @property
    def p_value(self) -> float:
        """One-sided, of "every query cluster is as likely to lead for the one as for the other", whatever the size of
        its lead: p = 3.178 · (1 − Φ(z)) (Bentkus, Dzindzalieta 2015).
        """
        from scipy.special import ndtr  # half a second that a service which only reads decisions is spared

        return min(SIGNS * float(ndtr(-self.z)), 1.0) if self.z > 0 else 1.0
