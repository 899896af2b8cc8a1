"""The shadow index is exact, and the same whatever computes it."""

import numpy as np
import pytest

from clickloop.retriever.shadow import MAX_K, ShadowIndex
from clickloop.retriever.types import Vectors


def unit(count: int, dimension: int, seed: int) -> Vectors:
    vectors = np.random.default_rng(seed).normal(size=(count, dimension)).astype(np.float32)
    scaled: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return scaled


@pytest.mark.parametrize("queries", [1, 7, 50])
@pytest.mark.parametrize(("count", "k"), [(1, 1), (30, 10), (1500, 10), (1500, 200)])
def test_it_finds_what_brute_force_finds(queries: int, count: int, k: int) -> None:
    keys = np.arange(count, dtype=np.int64) * 7 + 2**40
    vectors, asked = unit(count, 24, 1), unit(queries, 24, 2)
    found, scores = ShadowIndex(keys, vectors).query(asked, k)
    cosines = asked @ vectors.T
    # Scores, not keys: float32 may rank a pair that differs by 1e-7 either way.
    np.testing.assert_allclose(scores, -np.sort(-cosines, axis=1)[:, :k], atol=1e-6)
    np.testing.assert_allclose(scores, np.take_along_axis(cosines, np.searchsorted(keys, found), axis=1), atol=1e-6)
    assert all(len(set(row)) == min(k, count) for row in found.tolist())


@pytest.mark.parametrize("queries", [1, 50])
def test_equal_scores_are_in_the_order_of_their_keys(queries: int) -> None:
    """Twenty documents are there five times each, at scattered places."""
    copies = np.random.default_rng(3).permutation(np.repeat(np.arange(20), 5))
    keys = np.arange(1000, 1100)
    found, scores = ShadowIndex(keys, unit(20, 24, 4)[copies]).query(unit(queries, 24, 5), 50)
    assert (scores[:, :-1] >= scores[:, 1:]).all()
    rising = found[:, :-1] < found[:, 1:]
    assert rising[scores[:, :-1] == scores[:, 1:]].all()
    assert (scores[:, :-1] == scores[:, 1:]).sum() == queries * 40


@pytest.mark.parametrize("copies", [2, 40, 500])
def test_of_many_equal_documents_the_first_make_the_cut(copies: int) -> None:
    keys = np.arange(copies) * 3 + 5
    found, _ = ShadowIndex(keys, np.repeat(unit(1, 24, 6), copies, axis=0)).query(unit(3, 24, 7), 10)
    assert found.tolist() == [keys[:10].tolist()] * 3


def test_it_answers_with_everything_when_asked_for_more_than_there_is() -> None:
    keys, vectors = np.arange(5), unit(5, 24, 8)
    found, scores = ShadowIndex(keys, vectors).query(unit(2, 24, 9), 100)
    assert found.shape == scores.shape == (2, 5)
    assert [sorted(row) for row in found.tolist()] == [[0, 1, 2, 3, 4]] * 2


def test_it_answers_with_at_most_what_a_gpu_can() -> None:
    found, _ = ShadowIndex(np.arange(3000), unit(3000, 8, 10)).query(unit(1, 8, 11), 3000)
    assert found.shape == (1, MAX_K)


def test_no_queries_get_no_rows() -> None:
    found, scores = ShadowIndex(np.arange(20), unit(20, 24, 12)).query(unit(0, 24, 13), 10)
    assert found.shape == scores.shape == (0, 10)


@pytest.mark.parametrize("queries", [0, 3])
def test_of_no_documents_none_is_found(queries: int) -> None:
    shadow = ShadowIndex(np.empty(0, dtype=np.int64), unit(0, 24, 14))
    found, scores = shadow.query(unit(queries, 24, 15), 10)
    assert found.shape == scores.shape == (queries, 0)
