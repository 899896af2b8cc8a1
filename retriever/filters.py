"""One form of payload filters for every index: a subset of Qdrant's own, and a short form of it.

    {"language": "en", "year": {"gte": 2020}, "tag": ["a", "b"]}
    {"must": [{"key": "language", "match": {"value": "en"}}], "should": […], "must_not": […]}

The short form means that every field must match.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .errors import InvalidInput

CLAUSES = ("must", "should", "must_not")
BOUNDS = ("gt", "gte", "lt", "lte")
MAX_CONDITIONS = 100
MAX_EXACT = 2**53  # integers beyond are not told apart as doubles
PATH = re.compile(r"[\w-]+(\[\])?(\.[\w-]+(\[\])?)*")
Scalar = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Condition:
    """`any`: the field equals one of these; `none_of`: it equals none; `bounds`: it lies between numbers or dates."""

    key: str
    any: tuple[Scalar, ...] | None = None
    none_of: tuple[Scalar, ...] | None = None
    bounds: tuple[tuple[str, float | str], ...] | None = None


@dataclass(frozen=True, slots=True)
class Filter:
    must: tuple[Condition, ...] = ()
    should: tuple[Condition, ...] = ()
    must_not: tuple[Condition, ...] = ()


def parse_filter(value: Mapping[str, Any] | None) -> Filter | None:
    """Raises InvalidInput that names the part that is wrong."""
    if not value:
        return None
    if not isinstance(value, Mapping):
        raise InvalidInput("filter", value, "give an object of fields and what they must be")
    if set(value) <= set(CLAUSES):
        clauses = {name: _clause(name, items) for name, items in value.items()}
    else:
        clauses = {"must": tuple(_short(key, wanted) for key, wanted in value.items())}
    if sum(_size(condition) for clause in clauses.values() for condition in clause) > MAX_CONDITIONS:
        raise InvalidInput("filter", value, f"use at most {MAX_CONDITIONS} conditions and values")
    return Filter(**clauses)


def _clause(name: str, items: Any) -> tuple[Condition, ...]:
    if not isinstance(items, list):
        raise InvalidInput(f"filter.{name}", items, "give a list of conditions")
    return tuple(_condition(f"filter.{name}[{i}]", item) for i, item in enumerate(items))


def _size(condition: Condition) -> int:
    return max(1, len(condition.any or condition.none_of or ()))


def _checked_key(where: str, key: str) -> str:
    """Names of fields, parts of it separated by dots, each perhaps with [] for the items of a list."""
    if not PATH.fullmatch(key):
        remedy = (
            "name a payload field by letters, digits, _ and -, which filters can use; "
            'a dot leads into an object, as in "author.name", and [] to the items of a list, as in "tags[]"'
        )
        raise InvalidInput(where, key, remedy)
    return key


def _condition(where: str, item: Any) -> Condition:
    if not isinstance(item, Mapping) or not isinstance(item.get("key"), str):
        raise InvalidInput(where, item, 'give {"key": field, "match": …} or {"key": field, "range": …}')
    kinds, key = set(item) - {"key"}, _checked_key(where, item["key"])
    if kinds == {"match"}:
        return _match(where, key, item["match"])
    if kinds == {"range"}:
        return _range(where, key, item["range"])
    raise InvalidInput(where, item, "a condition has a key and either match or range")


def _match(where: str, key: str, match: Any) -> Condition:
    if isinstance(match, Mapping) and len(match) == 1:
        (kind, wanted) = next(iter(match.items()))
        if kind == "value":
            return Condition(key, any=_scalars(where, [wanted]))
        if kind == "any":
            return Condition(key, any=_scalars(where, wanted))
        if kind == "except":
            return Condition(key, none_of=_scalars(where, wanted))
    raise InvalidInput(where, match, 'match takes one of {"value": x}, {"any": [x, …]}, {"except": [x, …]}')


def _range(where: str, key: str, bounds: Any) -> Condition:
    if not isinstance(bounds, Mapping) or not bounds or not set(bounds) <= set(BOUNDS):
        raise InvalidInput(where, bounds, f"range takes some of {', '.join(BOUNDS)}")
    if {"gt", "gte"} <= set(bounds) or {"lt", "lte"} <= set(bounds):
        raise InvalidInput(where, bounds, "give one bound a side")
    dates = all(isinstance(bound, str) for bound in bounds.values())
    if not dates and not all(_is_number(bound) for bound in bounds.values()):
        raise InvalidInput(where, bounds, "bounds are finite numbers, or dates like 2026-01-31T00:00:00Z")
    return Condition(key, bounds=tuple(bounds.items()))


def _short(key: str, wanted: Any) -> Condition:
    where = f"filter.{key}"
    key = _checked_key(where, key)
    if isinstance(wanted, Mapping):
        return _range(where, key, wanted)
    return Condition(key, any=_scalars(where, wanted if isinstance(wanted, list) else [wanted]))


def _scalars(where: str, values: Any) -> tuple[Scalar, ...]:
    if not isinstance(values, list) or not values or not all(_is_scalar(value) for value in values):
        raise InvalidInput(where, values, "give a text, a finite number or true/false, or a list of them")
    return tuple(values)


def _is_scalar(value: Any) -> bool:
    return isinstance(value, str | bool) or _is_number(value)


def _is_number(value: Any) -> bool:
    """Finite, and what a payload can hold."""
    if isinstance(value, int) and not isinstance(value, bool):
        return -(2**63) <= value < 2**63
    return isinstance(value, float) and math.isfinite(value)
