"""Differences of query clusters, drawn and made, to decide by."""

from collections.abc import Sequence
from math import sqrt

import numpy as np
from hypothesis import strategies as st

from clickloop.trainer.sample import Sample

# Multiples of 1/64: their sums are exact, so that equal values have no spread.
units = st.lists(st.integers(-64, 64).map(lambda i: i / 64), min_size=10, max_size=80)


def guarded_p(values: Sequence[float]) -> float:
    return Sample.of(values).p_value


def spread(mean: float, sd: float, n: int = 1000) -> list[float]:
    """Symmetric values with exactly this mean and standard deviation."""
    pattern = np.tile([-1.0, 1.0], n // 2) * sqrt((n - 1) / n)
    return [float(value) for value in mean + sd * pattern]
