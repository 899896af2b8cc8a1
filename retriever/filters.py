"""One form of payload filters for every index: a subset of Qdrant's own, and a short form of it.

    {"language": "en", "year": {"gte": 2020}, "tag": ["a", "b"]}
    {"must": [{"key": "language", "match": {"value": "en"}}], "should": […], "must_not": […]}

The short form means that every field must match.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .errors import InvalidInput

CLAUSES = ("must", "should", "must_not")
BOUNDS = ("gt", "gte", "lt", "lte")
MAX_CONDITIONS = 100
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
    if set(value) <= set(CLAUSES):
        clauses = {name: _clause(name, items) for name, items in value.items()}
    else:
        clauses = {"must": tuple(_short(key, wanted) for key, wanted in value.items())}
    if sum(map(len, clauses.values())) > MAX_CONDITIONS:
        raise InvalidInput("filter", value, f"use at most {MAX_CONDITIONS} conditions")
    return Filter(**clauses)


def _clause(name: str, items: Any) -> tuple[Condition, ...]:
    if not isinstance(items, list):
        raise InvalidInput(f"filter.{name}", items, "give a list of conditions")
    return tuple(_condition(f"filter.{name}[{i}]", item) for i, item in enumerate(items))


def _condition(where: str, item: Any) -> Condition:
    if not isinstance(item, Mapping) or not isinstance(item.get("key"), str) or not item["key"]:
        raise InvalidInput(where, item, 'give {"key": field, "match": …} or {"key": field, "range": …}')
    kinds = set(item) - {"key"}
    if kinds == {"match"}:
        return _match(where, item["key"], item["match"])
    if kinds == {"range"}:
        return _range(where, item["key"], item["range"])
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
    numbers = all(isinstance(x, int | float) and not isinstance(x, bool) for x in bounds.values())
    dates = all(isinstance(x, str) for x in bounds.values())
    if not (numbers or dates) or (numbers and not all(math.isfinite(x) for x in bounds.values())):
        raise InvalidInput(where, bounds, "bounds are finite numbers, or dates like 2026-01-31T00:00:00Z")
    return Condition(key, bounds=tuple(bounds.items()))


def _short(key: str, wanted: Any) -> Condition:
    where = f"filter.{key}"
    if isinstance(wanted, Mapping):
        return _range(where, key, wanted)
    return Condition(key, any=_scalars(where, wanted if isinstance(wanted, list) else [wanted]))


def _scalars(where: str, values: Any) -> tuple[Scalar, ...]:
    if not isinstance(values, list) or not values or not all(isinstance(x, str | int | float | bool) for x in values):
        raise InvalidInput(where, values, "give a text, a number or true/false, or a list of them")
    return tuple(values)
