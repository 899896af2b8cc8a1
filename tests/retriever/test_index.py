"""One contract for every index: what the embedded engine promises, the server promises too."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clickloop.retriever.documents import MAX_DEPTH
from clickloop.retriever.edge import EdgeStore
from clickloop.retriever.errors import IndexFault, NotReady
from clickloop.retriever.filters import parse_filter
from clickloop.retriever.index import Index, IndexStore
from clickloop.retriever.types import Vectors

DIMENSION = 4


@pytest.fixture
def edge_store(tmp_path: Path) -> EdgeStore:
    return EdgeStore(tmp_path / "index", {})


def unit(count: int, dimension: int = DIMENSION, seed: int = 1) -> Vectors:
    vectors = np.random.default_rng(seed).normal(size=(count, dimension))
    scaled: Vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return scaled


def found(index: Index, wanted: dict[str, Any] | None) -> list[int]:
    return sorted(neighbour.key for neighbour in index.query(unit(1)[0], 1000, parse_filter(wanted)))


def test_the_nearest_come_first_with_their_cosine(index: Index) -> None:
    vectors, query = unit(50), unit(1, seed=2)[0]
    index.upsert(range(1, 51), vectors, [{}] * 50)
    cosines = vectors @ query
    expected = np.argsort(-cosines)[:10]
    neighbours = index.query(query, 10)
    assert [neighbour.key for neighbour in neighbours] == [int(row) + 1 for row in expected]
    np.testing.assert_allclose([neighbour.score for neighbour in neighbours], cosines[expected], atol=1e-6)


def test_finishing_changes_no_answer(index: Index) -> None:
    index.upsert(range(50), unit(50), [{}] * 50)
    query = unit(1, seed=2)[0]
    before = [neighbour.key for neighbour in index.query(query, 10)]
    index.finish()
    index.flush()
    assert [neighbour.key for neighbour in index.query(query, 10)] == before
    assert index.count() == 50


def test_an_empty_index_answers_with_nothing(index: Index) -> None:
    assert (index.query(unit(1)[0], 10), index.count(), index.vectors([1])) == ([], 0, {})


def test_upsert_replaces_vector_and_payload(index: Index) -> None:
    old, new = unit(2)
    index.upsert([1], old[None], [{"language": "en", "year": 2020}])
    index.upsert([1], new[None], [{"language": "de"}])
    assert index.count() == 1
    np.testing.assert_array_equal(index.vectors([1])[1], new)
    assert found(index, {"language": "de"}) == [1]
    assert found(index, {"language": "en"}) == []
    assert found(index, {"year": 2020}) == []


def nested(levels: int) -> dict[str, Any]:
    value: Any = "the deepest"
    for _ in range(levels - 1):
        value = [value]
    return {"deep": value, "colour": "red"}


def test_filters_hold_beside_the_deepest_payload_that_a_document_may_have(index: Index) -> None:
    index.upsert([1, 2], unit(2), [nested(MAX_DEPTH), {"colour": "red"}])
    assert found(index, {"colour": "red"}) == [1, 2]


def test_a_filter_that_the_engine_panics_on_is_a_fault_of_the_index(edge_store: EdgeStore) -> None:
    index = edge_store.create("build", DIMENSION)
    index.upsert([1, 2], unit(2), [nested(200), {"colour": "red"}])
    with pytest.raises(IndexFault, match=r"build.*recursion limit"):
        found(index, {"colour": "red"})
    assert found(index, None) == [1, 2]
    index.upsert([1], unit(1), [{"colour": "blue"}])
    assert found(index, {"colour": "red"}) == [2]
    index.close()


def test_the_count_is_exact_over_many_batches(index: Index) -> None:
    index.upsert(range(600), unit(600), [{}] * 600)
    index.delete(range(100))
    assert index.count() == 500


def test_deleted_points_are_gone_and_unknown_keys_pass(index: Index) -> None:
    index.upsert([1, 2, 3], unit(3), [{}] * 3)
    index.delete([2, 99])
    index.delete([2])
    index.delete([])
    assert index.count() == 2
    assert found(index, None) == [1, 3]


def test_stored_vectors_come_back_unchanged_and_missing_ones_are_left_out(index: Index) -> None:
    vectors = unit(3)
    index.upsert([1, 2, 2**40], vectors, [{}] * 3)
    stored = index.vectors([2**40, 7, 1])
    assert set(stored) == {1, 2**40}
    np.testing.assert_array_equal(stored[1], vectors[0])
    np.testing.assert_array_equal(stored[2**40], vectors[2])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_vectors_that_are_not_finite_are_refused_with_their_whole_batch(index: Index, bad: float) -> None:
    vectors = unit(300)
    vectors[299, 1] = bad
    with pytest.raises(IndexFault, match="299"):
        index.upsert(range(300), vectors, [{}] * 300)
    assert index.count() == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_query_that_is_not_finite_is_refused(index: Index, bad: float) -> None:
    index.upsert([1], unit(1), [{}])
    query = unit(1)[0]
    query[0] = bad
    with pytest.raises(IndexFault, match="query"):
        index.query(query, 10)


def test_create_replaces_what_an_interrupted_attempt_left(store: IndexStore) -> None:
    left = store.create("build", DIMENSION)
    left.upsert([1, 2], unit(2), [{}] * 2)
    left.close()
    again = store.create("build", DIMENSION + 1)
    assert again.count() == 0
    again.upsert([3], unit(1, DIMENSION + 1), [{}])
    assert again.count() == 1
    again.close()


def test_an_index_can_be_opened_again(store: IndexStore) -> None:
    vectors = unit(3)
    made = store.create("build", DIMENSION)
    made.upsert([1, 2, 3], vectors, [{"language": "en"}, {"language": "de"}, {}])
    made.delete([3])
    made.close()
    opened = store.open("build")
    assert opened.count() == 2
    np.testing.assert_array_equal(opened.vectors([2])[2], vectors[1])
    assert found(opened, {"language": "de"}) == [2]
    opened.close()


def test_builds_do_not_see_each_other(store: IndexStore) -> None:
    one, two = store.create("one", DIMENSION), store.create("two", DIMENSION)
    one.upsert([1], unit(1), [{}])
    assert (one.count(), two.count()) == (1, 0)
    one.close()
    two.close()


def test_a_missing_index_cannot_be_opened(store: IndexStore) -> None:
    with pytest.raises(IndexFault, match="no-such-build"):
        store.open("no-such-build")


def test_names_lists_and_drop_is_idempotent(store: IndexStore) -> None:
    assert store.names() == []
    for name in ("two", "one"):
        store.create(name, DIMENSION).close()
    assert store.names() == ["one", "two"]
    store.drop("one")
    store.drop("one")
    store.drop("never there")
    assert store.names() == ["two"]
    with pytest.raises(IndexFault):
        store.open("one")


def test_edge_opens_a_folder_only_once_and_what_is_open_is_not_lost(edge_store: EdgeStore, tmp_path: Path) -> None:
    made = edge_store.create("build", DIMENSION)
    made.upsert([1], unit(1), [{}])
    for other in (edge_store, EdgeStore(tmp_path / "index", {})):
        with pytest.raises(NotReady, match="build is still open"):
            other.open("build")
    with pytest.raises(NotReady, match="build is still open"):
        edge_store.create("build", DIMENSION)
    made.close()
    opened = edge_store.open("build")
    assert opened.count() == 1
    opened.close()


def test_edge_drops_an_index_that_is_still_open_when_it_is_closed(edge_store: EdgeStore) -> None:
    """A search that began before the switch ends on the index it began with, and no file of that is left."""
    made = edge_store.create("build", DIMENSION)
    made.upsert([1], unit(1), [{}])
    edge_store.drop("build")
    assert [neighbour.key for neighbour in made.query(unit(1)[0], 10)] == [1]
    made.close()
    assert edge_store.names() == []


def test_edge_keeps_what_was_written_before_and_after_an_optimisation(edge_store: EdgeStore) -> None:
    vectors = unit(200)
    made = edge_store.create("build", DIMENSION)
    made.upsert(range(100), vectors[:100], [{"half": 1}] * 100)
    made.finish()
    made.upsert(range(100, 200), vectors[100:], [{"half": 2}] * 100)
    made.delete([0])
    made.close()
    opened = edge_store.open("build")
    assert opened.count() == 199
    assert len(opened.query(vectors[0], 1000, parse_filter({"half": 2}))) == 100
    np.testing.assert_array_equal(opened.vectors([150])[150], vectors[150])
    opened.close()


@pytest.mark.parametrize("dimension", [2, 64, 384])
def test_edge_finds_what_exact_search_finds(edge_store: EdgeStore, dimension: int) -> None:
    """With vectors in few bits, however short they are; so few documents have no graph, but are compared in these."""
    vectors, queries = unit(3_000, dimension), unit(40, dimension, seed=2)
    made = edge_store.create("build", dimension)
    made.upsert(range(3_000), vectors, [{}] * 3_000)
    made.finish()
    exact = np.argsort(-(queries @ vectors.T), axis=1)[:, :10]
    same = [
        len({neighbour.key for neighbour in made.query(query, 10)} & set(best.tolist()))
        for query, best in zip(queries, exact, strict=True)
    ]
    assert np.mean(same) / 10 >= 0.99
    made.close()


def test_edge_refuses_an_empty_folder(edge_store: EdgeStore, tmp_path: Path) -> None:
    (tmp_path / "index" / "build").mkdir(parents=True)
    with pytest.raises(IndexFault, match="build"):
        edge_store.open("build")


@pytest.mark.parametrize("name", ["edge_config.json", "segment.json", "status.dat"])
def test_edge_refuses_a_damaged_folder(edge_store: EdgeStore, tmp_path: Path, name: str) -> None:
    made = edge_store.create("build", DIMENSION)
    made.upsert([1], unit(1), [{}])
    made.flush()
    made.close()
    for path in (tmp_path / "index").rglob(name):
        path.write_bytes(b"")
    with pytest.raises(IndexFault, match="build"):
        edge_store.open("build")
