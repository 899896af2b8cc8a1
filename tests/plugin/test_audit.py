"""What the ledger says was live, where the clock was set back, and whose evidence decided."""

from collections.abc import Callable
from typing import Any

import pytest

from clickloop.plugin.audit import live_at
from clickloop.retriever.database import Database
from clickloop.retriever.ledger import append

HOUR = 3600.0
# The clock was ahead while B went live: told by the hour that it showed.
WRITTEN = [("A", 1.0), ("B", 9.0), ("C", 5.0), ("D", 6.0)]
DECIDED = {"outcome": "promoted", "mean": 0.15, "n": 400, "p_value": 1e-5, "level": 2.4e-4}


def switched(database: Database, build: str, run: str | None = None) -> None:
    moved = {"build": build, "release": f"release-{build}", "former": None, "reason": "promotion", "by": "test"}
    with database.write() as connection:
        append(connection, "switch", **moved, run=run, state="done")


@pytest.fixture
def show(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets the clock to an hour."""
    return lambda hour: monkeypatch.setattr("time.time", lambda: hour * HOUR)


def told(lines: list[str]) -> tuple[str, bool]:
    """The build, and whether a line says that the time may have come more than once."""
    return lines[0].removeprefix("build:").strip(), lines[-1].startswith("clock:")


@pytest.mark.parametrize(
    ("now", "asked", "live"),
    [
        (7.0, None, ("D", True)),
        (7.0, 6.5, ("D", True)),  # it came with A live too
        (7.0, 5.5, ("C", True)),
        (7.0, 4.0, ("A", True)),  # perhaps with B live too
        (12.0, None, ("D", False)),
        (12.0, 8.0, ("D", True)),
        (12.0, 9.5, ("D", False)),
        (12.0, 4.0, ("A", False)),
    ],
)
def test_what_was_live_is_told_by_the_order_of_the_entries(
    database: Database, show: Callable[[float], None], now: float, asked: float | None, live: tuple[str, bool]
) -> None:
    for build, hour in WRITTEN:
        show(hour)
        switched(database, build)
    show(now)
    assert told(live_at(database, None if asked is None else asked * HOUR)) == live


def test_what_went_live_while_the_clock_was_ahead_is_live_after_it_was_set_back(
    database: Database, show: Callable[[float], None]
) -> None:
    for build, hour in WRITTEN[:2]:
        show(hour)
        switched(database, build)
    show(5.0)
    with database.write() as connection:
        append(connection, "decision", run="run-later")
    assert told(live_at(database)) == told(live_at(database, 6 * HOUR)) == ("B", True)


@pytest.mark.parametrize(
    ("by", "said"),
    [
        ({"by": "people"}, "preferred by +0.1500 votes of 400 people"),
        ({"by": "queries"}, "gain +0.1500 on 400 query clusters"),
        ({}, "gain +0.1500 on 400 units"),  # as older versions wrote it
    ],
)
def test_it_is_told_whose_evidence_decided(database: Database, by: dict[str, Any], said: str) -> None:
    with database.write() as connection:
        append(connection, "decision", run="run-1", candidate="release-A", **DECIDED, **by)
    switched(database, "A", run="run-1")
    lines = "\n".join(live_at(database))
    assert f"decision: promoted, {said}, p = 1e-05" in lines
    assert lines.count("400") == 1
