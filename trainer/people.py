"""Simulated people: a click model with a seed, for the demo and for benchmarks. They are not real users."""

from collections.abc import Collection, Sequence

import numpy as np


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
        relevant = np.array([document_id in right for document_id in shown], dtype=bool)
        attracted = self._random.random(len(shown)) < np.where(relevant, self._attraction, self._noise)
        return [int(rank) for rank in ranks[examined & attracted]]

    def senseless_clicks(self, shown: Sequence[str]) -> list[int]:
        """Clicks that depend on the rank alone and so carry no information about relevance."""
        mean = (self._attraction + self._noise) / 2
        ranks = np.arange(1, len(shown) + 1)
        return [int(rank) for rank in ranks[self._random.random(len(shown)) < mean * ranks**-self._bias]]
