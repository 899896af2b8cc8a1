"""Filters on every index, compared with a plain evaluation over the payloads."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clickloop.retriever.errors import InvalidInput
from clickloop.retriever.filters import parse_filter
from clickloop.retriever.index import Index
from clickloop.retriever.types import Payload, Vectors

# A field holds one kind of value.
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


def same(count: int) -> Vectors:
    return np.full((count, 4), 0.5, dtype=np.float32)


def found(index: Index, wanted: dict[str, Any] | None) -> list[int]:
    return sorted(neighbour.key for neighbour in index.query(same(1)[0], 1000, parse_filter(wanted)))


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
    assert len(filled.query(same(1)[0], 1, parse_filter({"language": "EN"}))) == 1


@pytest.mark.parametrize(
    "wanted", [{"year": {"gte": "next week"}}, {"my field": 1}, {"tags[": "a"}, {"a..b": 1}, {"a\x00b": 1}], ids=str
)
def test_what_no_engine_can_compare_is_the_callers_mistake(filled: Index, wanted: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="filter"):
        found(filled, wanted)
