import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clickloop.retriever import building
from clickloop.retriever.building import tenth_best


@given(st.integers(1, 40), st.integers(1, 7), st.integers(0, 5))
def test_the_score_of_the_tenth_best_does_not_depend_on_the_blocks(rows: int, block: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((rows, 4), dtype=np.float32)
    queries = rng.standard_normal((3, 4), dtype=np.float32)
    expected = np.sort(queries @ vectors.T, axis=1)[:, ::-1][:, min(9, rows - 1)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(building, "ROWS", block)
        np.testing.assert_allclose(tenth_best(queries, vectors), expected, rtol=1e-5, atol=1e-5)
