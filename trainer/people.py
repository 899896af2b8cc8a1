"""Simulated people: click models with a seed, for the demo and for benchmarks. They are not real users."""

from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt

from ..retriever.errors import InvalidInput


class People:
    """They look at rank r with probability r^-bias, click what is right with `attraction` and else with `noise`.

    This is the position-based model (Craswell et al. 2008) with noise.
    """

    def __init__(self, seed: int, bias: float = 1.0, attraction: float = 0.9, noise: float = 0.1) -> None:
        self._random = np.random.default_rng(seed)
        self._bias = bias
        self._attraction = attraction
        self._noise = noise

    def queries(self, count: int, kinds: int, exponent: float = 0.3) -> list[int]:
        """`count` numbers of queries out of `kinds`, their frequencies falling with rank^-exponent (Zipf)."""
        weights = np.arange(1, kinds + 1, dtype=float) ** -exponent
        shuffled = self._random.permutation(kinds)
        return [int(shuffled[i]) for i in self._random.choice(kinds, size=count, p=weights / weights.sum())]

    def clicks(self, shown: Sequence[str], right: Collection[str]) -> list[int]:
        """The ranks (from 1) that one person clicks."""
        ranks = np.arange(1, len(shown) + 1)
        examined = self._random.random(len(shown)) < ranks**-self._bias
        attracted = self._random.random(len(shown)) < self._attractions(shown, right)
        return [int(rank) for rank in ranks[examined & attracted]]

    def senseless_clicks(self, shown: Sequence[str]) -> list[int]:
        """Clicks that depend on the rank alone and so carry no information about relevance."""
        mean = (self._attraction + self._noise) / 2
        ranks = np.arange(1, len(shown) + 1)
        return [int(rank) for rank in ranks[self._random.random(len(shown)) < mean * ranks**-self._bias]]

    def _attractions(self, shown: Sequence[str], right: Collection[str]) -> npt.NDArray[np.float64]:
        """The probability of a click at each rank, of whoever looks there."""
        relevant = np.array([document_id in right for document_id in shown], dtype=bool)
        return np.where(relevant, self._attraction, self._noise)


class CascadePeople(People):
    """They read from the top, click what attracts them, and after a click stop with probability `stop`.

    The cascade (Craswell et al. 2008) with several clicks, as in the dependent click model (Guo, Liu, Wang 2009).
    """

    stop = 0.5

    def clicks(self, shown: Sequence[str], right: Collection[str]) -> list[int]:
        attracted = self._random.random(len(shown)) < self._attractions(shown, right)
        stops = self._random.random(len(shown)) < self.stop
        clicked = []
        for rank in np.flatnonzero(attracted):
            clicked.append(int(rank) + 1)
            if stops[rank]:
                break
        return clicked


class TrustingPeople(People):
    """They look as `People` do, and click what they looked at by trust alone with probability `trust`[r - 1] at rank r;
    further down than that, never.

    Trust bias (Agarwal et al. 2019): right and wrong are clicked more on top, the wrong far more so.
    """

    trust = (0.3, 0.15, 0.1, 0.075, 0.06, 0.05, 0.04, 0.04, 0.03, 0.03)

    def _attractions(self, shown: Sequence[str], right: Collection[str]) -> npt.NDArray[np.float64]:
        trust = np.zeros(len(shown))
        trust[: len(self.trust)] = self.trust[: len(shown)]
        return 1 - (1 - super()._attractions(shown, right)) * (1 - trust)


KINDS: dict[str, type[People]] = {"position": People, "cascade": CascadePeople, "trust": TrustingPeople}


def people(kind: str, seed: int, bias: float = 1.0, attraction: float = 0.9, noise: float = 0.1) -> People:
    """People of a kind of KINDS; those who read from the top have no `bias`. Raises InvalidInput for another kind."""
    if kind not in KINDS:
        raise InvalidInput("kind of people", kind, f"use one of {', '.join(KINDS)}")
    return KINDS[kind](seed, bias, attraction, noise)
