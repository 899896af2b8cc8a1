"""The ledger on the command line: what was live, also where the clock was set back, and whose evidence decided."""

import json
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from clickloop.plugin.audit import live_at
from clickloop.plugin.loop import ClickLoop
from clickloop.plugin.settings import Settings
from clickloop.retriever.database import Database
from clickloop.retriever.ledger import append

Run = Callable[..., CompletedProcess[str]]
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


def test_the_ledger_is_verified_and_listed(run: Run, data_dir: Path) -> None:
    listed = run("audit", "list")
    (line,) = listed.stdout.splitlines()
    entry = json.loads(line)
    assert (entry["number"], entry["kind"], entry["content"]["reason"]) == (1, "switch", "bootstrap")
    whole = run("audit", "verify")
    assert (whole.returncode, whole.stdout.split(",")[0]) == (0, "1 entries")
    assert entry["hash"] in whole.stdout
    database = sqlite3.connect(data_dir / "clickloop.db")
    database.execute("UPDATE ledger SET content = replace(content, 'bootstrap', 'promotion')")
    database.commit()
    database.close()
    broken = run("audit", "verify")
    assert broken.returncode == 1
    assert "entry 1" in broken.stderr


def test_what_was_live_at_a_moment_and_why(run: Run, data_dir: Path) -> None:
    (entry,) = map(json.loads, run("audit", "list").stdout.splitlines())
    now = run("audit", "live")
    assert now.returncode == 0
    assert entry["content"]["build"] in now.stdout
    assert entry["content"]["release"] in now.stdout
    assert "bootstrap, asked for by system" in now.stdout
    loop = ClickLoop(Settings(data_dir=data_dir))
    with loop.database.write() as connection:
        decided = {"outcome": "promoted", "mean": 0.031, "n": 120, "p_value": 1e-5, "level": 2.4e-4, "by": "queries"}
        append(connection, "decision", run="run-1", candidate="release-1", **decided)
        append(connection, "decision", run="run-1", candidate="the next challenger", **decided | {"mean": 0.5})
        append(connection, "approval", run="run-1", build="build-1", by="cli")
        moved = {"build": "build-1", "release": "release-1", "former": entry["content"]["build"]}
        append(connection, "switch", **moved, reason="promotion", run="run-1", by="cli", state="done")
        append(
            connection, "switch", **moved | {"build": "build-2"}, reason="rollback", run=None, by="api", state="refused"
        )
    loop.close()
    later = run("audit", "live").stdout
    assert "build-1" in later
    assert "release-1" in later
    assert "gain +0.0310 on 120 query clusters" in later
    assert "+0.5" not in later, "that decision was about another model"
    assert "approved by cli" in later
    moment = datetime.fromtimestamp(entry["at"], UTC) + timedelta(microseconds=10)
    assert run("audit", "live", "--at", moment.isoformat()).stdout == now.stdout


@pytest.mark.parametrize(
    ("at", "said"),
    [
        ("yesterday", "give a time as"),
        ("2999-01-01", "lies in the future"),
        ("2020-01-01T00:00", "the first build"),
        ("0001-01-01T00:00+14:00", "give a time as"),
    ],
)
def test_a_moment_that_is_none_or_before_the_first_switch_is_refused(
    run: Run, data_dir: Path, at: str, said: str
) -> None:
    refused = run("audit", "live", "--at", at)
    assert refused.returncode == 1
    assert said in refused.stderr
    assert data_dir.exists()
