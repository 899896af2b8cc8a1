import re
from typing import Any

import pytest

from clickloop.retriever.errors import InvalidInput
from clickloop.retriever.filters import MAX_CONDITIONS, Condition, Filter, parse_filter

NAN = float("nan")
EQUALS = {"key": "a", "match": {"value": 1}}


@pytest.mark.parametrize("empty", [None, {}])
def test_no_filter_is_no_filter(empty: dict[str, Any] | None) -> None:
    assert parse_filter(empty) is None


def test_the_short_form_means_that_every_field_must_match() -> None:
    short = parse_filter({"language": "en", "tag": ["a", "b"], "year": {"gte": 2020, "lt": 2030}})
    full = parse_filter(
        {
            "must": [
                {"key": "language", "match": {"value": "en"}},
                {"key": "tag", "match": {"any": ["a", "b"]}},
                {"key": "year", "range": {"gte": 2020, "lt": 2030}},
            ]
        }
    )
    assert short == full


def test_each_clause_keeps_its_own_conditions() -> None:
    parsed = parse_filter({"should": [EQUALS], "must_not": [{"key": "b", "match": {"except": [2, 3]}}]})
    assert parsed == Filter(should=(Condition("a", any=(1,)),), must_not=(Condition("b", none_of=(2, 3)),))


@pytest.mark.parametrize(
    ("wrong", "part"),
    [
        pytest.param({"must": EQUALS}, "filter.must", id="clause is no list"),
        pytest.param({"should": "x"}, "filter.should", id="clause is a text"),
        pytest.param({"must": [EQUALS, "x"]}, "filter.must[1]", id="condition is no object"),
        pytest.param({"must": [{"match": {"value": 1}}]}, "filter.must[0]", id="no key"),
        pytest.param({"must": [{"key": "", "match": {"value": 1}}]}, "filter.must[0]", id="empty key"),
        pytest.param({"must": [{"key": 3, "match": {"value": 1}}]}, "filter.must[0]", id="key is a number"),
        pytest.param({"must_not": [{"key": "a"}]}, "filter.must_not[0]", id="neither match nor range"),
        pytest.param({"must": [EQUALS, {**EQUALS, "range": {"gt": 1}}]}, "filter.must[1]", id="both match and range"),
        pytest.param({"must": [{**EQUALS, "unknown": 1}]}, "filter.must[0]", id="unknown part of a condition"),
        pytest.param({"must": [{"key": "a", "match": 1}]}, "filter.must[0]", id="match is no object"),
        pytest.param({"must": [{"key": "a", "match": {}}]}, "filter.must[0]", id="match is empty"),
        pytest.param({"must": [{"key": "a", "match": {"text": "x"}}]}, "filter.must[0]", id="unknown kind of match"),
        pytest.param(
            {"must": [{"key": "a", "match": {"value": 1, "any": [1]}}]}, "filter.must[0]", id="two kinds of match"
        ),
        pytest.param({"must": [{"key": "a", "match": {"value": None}}]}, "filter.must[0]", id="match null"),
        pytest.param({"must": [{"key": "a", "match": {"any": "x"}}]}, "filter.must[0]", id="any is no list"),
        pytest.param({"must": [{"key": "a", "match": {"any": []}}]}, "filter.must[0]", id="any of nothing"),
        pytest.param({"must": [{"key": "a", "match": {"except": []}}]}, "filter.must[0]", id="except nothing"),
        pytest.param({"must": [{"key": "a", "range": {}}]}, "filter.must[0]", id="range is empty"),
        pytest.param({"must": [{"key": "a", "range": {"above": 1}}]}, "filter.must[0]", id="unknown bound"),
        pytest.param({"must": [{"key": "a", "range": {"gt": None}}]}, "filter.must[0]", id="bound is null"),
        pytest.param({"must": [{"key": "a", "range": {"gt": True}}]}, "filter.must[0]", id="bound is true"),
        pytest.param({"must": [{"key": "a", "range": {"gt": NAN}}]}, "filter.must[0]", id="bound is NaN"),
        pytest.param({"year": {"gte": NAN}}, "filter.year", id="short: bound is NaN"),
        pytest.param({"year": {"lte": float("inf")}}, "filter.year", id="short: bound is infinite"),
        pytest.param({"year": {"gt": 1, "gte": 2}}, "filter.year", id="short: two lower bounds"),
        pytest.param({"year": {"lt": 1, "lte": 2}}, "filter.year", id="short: two upper bounds"),
        pytest.param({"year": {"lte": 10**400}}, "filter.year", id="short: bound beyond all floats"),
        pytest.param({"year": {"gte": 1, "lt": "2026-01-01"}}, "filter.year", id="short: number and date mixed"),
        pytest.param({"year": {"from": {"gte": 1}}}, "filter.year", id="short: nested object"),
        pytest.param({"year": {}}, "filter.year", id="short: empty object"),
        pytest.param({"tag": []}, "filter.tag", id="short: empty list"),
        pytest.param({"tag": [["a"]]}, "filter.tag", id="short: list in a list"),
        pytest.param({"tag": ["a", {"b": 1}]}, "filter.tag", id="short: object in a list"),
        pytest.param({"tag": None}, "filter.tag", id="short: null"),
        pytest.param({"price": NAN}, "filter.price", id="short: NaN"),
        pytest.param({"price": [1.0, float("inf")]}, "filter.price", id="short: infinity in a list"),
        pytest.param({"price": 2**63}, "filter.price", id="short: integer beyond 64 bits"),
        pytest.param({"": "x"}, "filter", id="short: empty key"),
        pytest.param({"must": [EQUALS], "language": "en"}, "filter.must", id="short and full form mixed"),
    ],
)
def test_a_bad_filter_is_refused_and_the_part_is_named(wrong: dict[str, Any], part: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_filter(wrong)
    assert caught.value.name.rstrip(".") == part
    assert part in str(caught.value)


@pytest.mark.parametrize("key", ["two words", "a..b", ".a", "a.", "price €"])
@pytest.mark.parametrize("full", [False, True])
def test_a_field_that_no_filter_can_use_is_refused_with_what_its_name_may_be(key: str, full: bool) -> None:
    wanted = {"must": [{"key": key, "match": {"value": 1}}]} if full else {key: 1}
    with pytest.raises(InvalidInput, match=f"{re.escape(repr(key))}.*letters, digits, _ and -.*a dot"):
        parse_filter(wanted)


def test_a_filter_has_a_largest_size() -> None:
    assert parse_filter({"must": [EQUALS] * MAX_CONDITIONS}) is not None
    with pytest.raises(InvalidInput, match=str(MAX_CONDITIONS)):
        parse_filter({"must": [EQUALS] * MAX_CONDITIONS, "must_not": [EQUALS]})
    with pytest.raises(InvalidInput, match=str(MAX_CONDITIONS)):
        parse_filter({f"field{i}": 1 for i in range(MAX_CONDITIONS + 1)})
