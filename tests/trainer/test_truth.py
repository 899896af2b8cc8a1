"""Measures and ranks from true relevances."""

import numpy as np
import pytest

from clickloop.retriever.serving import unit
from clickloop.trainer.truth import TOGETHER, measure, ranked_by, ranks_of


def test_queries_that_find_nothing_count_as_zero() -> None:
    found = measure([["b", "a"], [], ["x"]], [{"a"}, {"a"}, {"x", "y"}])
    assert found["RR@10"].tolist() == [0.5, 0, 1]
    assert found["R@10"].tolist() == [1, 0, 0.5]
    assert found["nDCG@10"] == pytest.approx([1 / np.log2(3), 0, 1 / (1 + 1 / np.log2(3))])


def test_ranks_are_those_of_the_exact_search() -> None:
    random = np.random.default_rng(1)
    documents, queries = (unit(random.normal(size=(count, 8)).astype(np.float32)) for count in (50, TOGETHER + 9))
    ranks = ranks_of([3, 40], documents, queries)
    assert ranks.shape == (len(queries), 2)
    ids = [str(number) for number in range(50)]
    for best, row in zip(ranked_by(ids, documents, queries), ranks, strict=True):
        for id_, rank in zip(("3", "40"), row, strict=True):
            assert best[rank - 1] == id_ if rank <= len(best) else id_ not in best
    assert ranks_of([], documents, queries).shape == (len(queries), 0)
