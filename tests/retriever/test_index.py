"""One contract for every index: what the embedded engine promises, the server promises too."""

import os
import secrets
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qdrant_client import QdrantClient

from clickloop.retriever.edge import EdgeStore
from clickloop.retriever.errors import IndexFault, InvalidInput
from clickloop.retriever.filters import parse_filter
from clickloop.retriever.index import Index, IndexStore
from clickloop.retriever.qdrant import QdrantStore
from clickloop.retriever.types import Payload, Vectors

DIMENSION = 4
PAYLOAD_INDEXES = {
    "language": "keyword",
    "tags": "keyword",
    "year": "integer",
    "price": "float",
    "active": "bool",
    "released": "datetime",
}


@pytest.fixture(params=["edge", "edge with payload indexes", "server"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[IndexStore]:
    if request.param == "server":
        url = os.environ.get("CLICKLOOP_TEST_QDRANT_URL")
        client = QdrantClient(url=url) if url else QdrantClient(":memory:")
        # The client's in-memory mode has no payload indexes and warns about every one.
        made: IndexStore = QdrantStore(client, f"test-{secrets.token_hex(6)}-", PAYLOAD_INDEXES if url else {})
        yield made
        for name in made.names():
            made.drop(name)
        client.close()
    else:
        yield EdgeStore(tmp_path / "index", {} if request.param == "edge" else PAYLOAD_INDEXES)


@pytest.fixture
def edge_store(tmp_path: Path) -> EdgeStore:
    return EdgeStore(tmp_path / "index", {})


@pytest.fixture
def index(store: IndexStore) -> Iterator[Index]:
    made = store.create("build", DIMENSION)
    yield made
    made.close()


def unit(count: int, dimension: int = DIMENSION, seed: int = 1) -> Vectors:
    vectors = np.random.default_rng(seed).normal(size=(count, dimension))
    scaled: Vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return scaled


def same(count: int) -> Vectors:
    return np.tile(unit(1), (count, 1))


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


# Filters: compared with a plain evaluation over these payloads. A field holds one kind of value.
PAYLOADS: list[Payload] = [
    {},
    {"language": "en", "tags": ["a", "b"], "year": 2019, "price": 9.5, "active": True},
    {"language": "de", "tags": ["b"], "year": 2020, "price": 10.0, "active": False},
    {"language": "en", "tags": [], "year": 2021, "price": -1.25, "released": "2026-01-31T00:00:00Z"},
    {"language": ["en", "de"], "tags": "a", "year": [2019, 2021], "price": [0.5, 9.5], "active": [True, False]},
    {"language": "", "year": 0, "price": 0.0, "released": "2025-12-31T23:59:59Z"},
    {"language": "EN", "year": -5, "active": True, "released": "2026-06-15T12:30:00Z"},
    {"tags": ["c", "a"], "released": ["2024-02-29T00:00:00Z", "2026-03-01T00:00:00Z"]},
    {"language": None, "tags": ["ü", "two words"], "year": None, "price": 1e9, "active": None},
    {"language": "de", "year": 2020, "price": 10.000001, "nested": {"year": 2020}},
]
DATES = [
    "2025-12-31T23:59:59Z",
    "2026-01-31T00:00:00Z",
    "2026-02-01T00:00:00Z",
    "2026-01-31",
    "2026-01-31T01:00:00+01:00",
]
VALUES: dict[str, list[Any]] = {
    "language": ["en", "de", "EN", "", "fr"],
    "tags": ["a", "b", "c", "ü", "two words"],
    "year": [2019, 2020, 2021, 0, -5, 2020.0],
    "price": [9.5, 10.0, -1.25, 0.0, 0.5, 1e9],
    "active": [True, False],
    "nested.year": [2020, 2021],
    "missing": ["x", 1, True],
}
COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "gt": lambda value, bound: bool(value > bound),
    "gte": lambda value, bound: bool(value >= bound),
    "lt": lambda value, bound: bool(value < bound),
    "lte": lambda value, bound: bool(value <= bound),
}


def values_of(payload: Payload, key: str) -> list[Any]:
    value: Any = payload
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def kind(value: Any) -> str:
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__


def equal(value: Any, wanted: Any) -> bool:
    return kind(value) == kind(wanted) and bool(value == wanted)


def within(value: Any, bounds: dict[str, Any]) -> bool:
    if isinstance(value, str):
        if not all(isinstance(bound, str) for bound in bounds.values()):
            return False
        return all(COMPARE[name](date(value), date(bound)) for name, bound in bounds.items())
    if kind(value) != "number" or any(isinstance(bound, str) for bound in bounds.values()):
        return False
    return all(COMPARE[name](value, bound) for name, bound in bounds.items())


def date(text: str) -> datetime:
    read = datetime.fromisoformat(text)
    return read if read.tzinfo else read.replace(tzinfo=UTC)


def condition_holds(condition: dict[str, Any], payload: Payload) -> bool:
    values = values_of(payload, condition["key"])
    if "range" in condition:
        return any(within(value, condition["range"]) for value in values)
    ((form, wanted),) = condition["match"].items()
    listed = [wanted] if form == "value" else wanted
    hit = any(equal(value, one) for value in values for one in listed)
    return not hit if form == "except" else hit


def spelled_out(key: str, short: Any) -> dict[str, Any]:
    """The condition that a field of the short form stands for."""
    if isinstance(short, dict):
        return {"key": key, "range": short}
    return {"key": key, "match": {"any": short if isinstance(short, list) else [short]}}


def filter_holds(wanted: dict[str, Any], payload: Payload) -> bool:
    if not set(wanted) <= {"must", "should", "must_not"}:
        return all(condition_holds(spelled_out(key, short), payload) for key, short in wanted.items())
    should = wanted.get("should", [])
    return (
        all(condition_holds(condition, payload) for condition in wanted.get("must", []))
        and (not should or any(condition_holds(condition, payload) for condition in should))
        and not any(condition_holds(condition, payload) for condition in wanted.get("must_not", []))
    )


def expected(wanted: dict[str, Any]) -> list[int]:
    return [key for key, payload in enumerate(PAYLOADS) if filter_holds(wanted, payload)]


def ranges(bounds: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    lower = st.dictionaries(st.sampled_from(["gt", "gte"]), bounds, max_size=1)
    upper = st.dictionaries(st.sampled_from(["lt", "lte"]), bounds, max_size=1)
    return st.tuples(lower, upper).filter(any).map(lambda pair: pair[0] | pair[1])


RANGES = {
    "year": ranges(st.sampled_from([-5, 0, 2019, 2020, 2020.5, 2021])),
    "price": ranges(st.sampled_from([-1.25, 0, 0.5, 9.5, 10, 1e9])),
    "released": ranges(st.sampled_from(DATES)),
    "missing": ranges(st.sampled_from([0, 1.5])),
}


@st.composite
def conditions(draw: st.DrawFn) -> dict[str, Any]:
    form = draw(st.sampled_from(["value", "any", "except", "range"]))
    if form == "range":
        key = draw(st.sampled_from(sorted(RANGES)))
        return {"key": key, "range": draw(RANGES[key])}
    key = draw(st.sampled_from(sorted(VALUES)))
    one = st.sampled_from(VALUES[key])
    return {"key": key, "match": {form: draw(one if form == "value" else st.lists(one, min_size=1, max_size=3))}}


@st.composite
def short_fields(draw: st.DrawFn) -> tuple[str, Any]:
    condition = draw(conditions().filter(lambda made: "except" not in made.get("match", {})))
    return condition["key"], condition["range"] if "range" in condition else next(iter(condition["match"].values()))


full_filters = st.dictionaries(
    st.sampled_from(["must", "should", "must_not"]), st.lists(conditions(), max_size=3), min_size=1
)
short_filters = st.lists(short_fields(), min_size=1, max_size=3).map(dict)


@pytest.fixture
def filled(index: Index) -> Index:
    index.upsert(range(len(PAYLOADS)), same(len(PAYLOADS)), PAYLOADS)
    return index


@pytest.mark.parametrize(
    "wanted",
    [
        {"language": "en"},
        {"language": ["de", "EN"]},
        {"tags": "a", "year": 2019},
        {"year": 2020},
        {"year": 2020.0},
        {"price": 9.5},
        {"price": 10.0},
        {"active": True},
        {"active": False},
        {"year": {"gte": 2020}},
        {"price": {"gt": 9.5, "lte": 10}},
        {"released": {"gte": "2026-01-01T00:00:00Z", "lt": "2026-06-01T00:00:00Z"}},
        {"released": {"lt": "2026-01-01"}},
        {"nested.year": 2020},
        {"missing": "x"},
        {"missing": {"gte": 0}},
        {"must": []},
        {"should": [{"key": "language", "match": {"value": "de"}}, {"key": "year", "range": {"lt": 0}}]},
        {"must_not": [{"key": "active", "match": {"value": True}}]},
        {"must_not": [{"key": "missing", "match": {"value": "x"}}]},
        {"must": [{"key": "tags", "match": {"except": ["a", "c"]}}]},
        {"must": [{"key": "missing", "match": {"except": ["x"]}}]},
        {"should": [{"key": "active", "match": {"except": [False]}}]},
        {
            "must": [{"key": "language", "match": {"any": ["en", "de"]}}],
            "should": [{"key": "price", "range": {"gte": 10}}, {"key": "tags", "match": {"value": "b"}}],
            "must_not": [{"key": "year", "match": {"value": 2019}}],
        },
    ],
    ids=str,
)
def test_a_filter_keeps_what_it_says(filled: Index, wanted: dict[str, Any]) -> None:
    assert found(filled, wanted) == expected(wanted)


@settings(max_examples=60)
@given(wanted=full_filters | short_filters)
def test_any_filter_keeps_what_it_says(filled: Index, wanted: dict[str, Any]) -> None:
    assert found(filled, wanted) == expected(wanted)


@pytest.mark.parametrize(
    ("wanted", "keys"), [(1, [0, 1]), (1.0, [0, 1]), (True, [2]), ("1", [3]), (0, [4]), (False, [5]), ("true", [6])]
)
def test_numbers_texts_and_truth_are_never_equal_to_each_other(index: Index, wanted: Any, keys: list[int]) -> None:
    values: list[Any] = [1, 1.0, True, "1", 0, False, "true"]
    index.upsert(range(len(values)), same(len(values)), [{"mixed": value} for value in values])
    assert found(index, {"mixed": wanted}) == keys


@pytest.mark.parametrize("large", [2**53 + 1, 2**62 + 1, -(2**62) - 1])
def test_large_integers_are_compared_exactly(index: Index, large: int) -> None:
    index.upsert([1, 2, 3], same(3), [{"number": large - 1}, {"number": large}, {"number": large + 1}])
    assert found(index, {"number": large}) == [2]


def test_a_filter_narrows_before_the_limit(filled: Index) -> None:
    assert len(filled.query(unit(1)[0], 1, parse_filter({"language": "EN"}))) == 1


@pytest.mark.parametrize(
    "wanted", [{"year": {"gte": "next week"}}, {"my field": 1}, {"tags[": "a"}, {"a..b": 1}, {"a\x00b": 1}], ids=str
)
def test_what_no_engine_can_compare_is_the_callers_mistake(filled: Index, wanted: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="filter"):
        found(filled, wanted)


def test_edge_opens_a_folder_only_once(edge_store: EdgeStore) -> None:
    made = edge_store.create("build", DIMENSION)
    with pytest.raises(IndexFault, match="build"):
        edge_store.open("build")
    made.close()
    edge_store.open("build").close()


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
