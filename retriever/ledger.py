"""What was decided, approved and switched: append-only, each entry bound to all before it by a hash.

An entry holds ids, hashes and numbers, never queries or documents. Whoever keeps the newest hash elsewhere can show
later that nothing before it was changed.
"""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import Connection, select

from .database import Database
from .schema import counters, ledger

COUNTER = "ledger"
ORIGIN = "0" * 64


@dataclass(frozen=True, slots=True)
class Entry:
    """`content` is JSON, exactly as it was hashed."""

    number: int
    at: float
    kind: str  # decision, challenger, approval, rejection, switch
    content: str
    hash: str


def append(connection: Connection, kind: str, **content: Any) -> None:
    """Adds an entry in the caller's transaction, which no other one can overtake."""
    raised = counters.update().where(counters.c.name == COUNTER).values(value=counters.c.value + 1)
    number = connection.execute(raised.returning(counters.c.value)).scalar_one_or_none()
    if number is None:
        connection.execute(counters.insert(), {"name": COUNTER, "value": 1})
        number = 1
    former = connection.scalar(select(ledger.c.hash).where(ledger.c.number == number - 1)) or ORIGIN
    at, text = time.time(), orjson.dumps(content, option=orjson.OPT_SORT_KEYS).decode()
    row = {"number": number, "at": at, "kind": kind, "content": text, "hash": chained(former, number, at, kind, text)}
    connection.execute(ledger.insert(), row)


def chained(former: str, number: int, at: float, kind: str, content: str) -> str:
    """SHA-256 over the former entry's hash and everything this entry says."""
    whole = orjson.dumps([former, number, at, kind, content])
    return hashlib.sha256(whole).hexdigest()


def entries(database: Database) -> list[Entry]:
    """All of them, the oldest first."""
    with database.read() as connection:
        rows = connection.execute(select(ledger).order_by(ledger.c.number)).all()
    return [Entry(**row._mapping) for row in rows]


def until(found: Sequence[Entry], at: float) -> Sequence[Entry]:
    """Those written up to a time, of all entries: where the clock was set back and showed it more than once, up to the
    last time that an entry tells of. Then some of them have a later time themselves.
    """
    last = max((entry.number for entry in found if entry.at <= at), default=0)
    return [entry for entry in found if entry.number <= last]


def moves(found: Sequence[Entry]) -> list[dict[str, Any]]:
    """What these entries say about the moves of the pointer, in their order, each with its time `at`: what the last one
    moved it to was live after them.
    """
    moved = [{**orjson.loads(entry.content), "at": entry.at} for entry in found if entry.kind == "switch"]
    return [switch for switch in moved if switch["state"] == "done"]


def about_run(database: Database, run_id: str) -> list[dict[str, Any]]:
    """What the ledger says about a run, the oldest first, each with its `kind`."""
    found = [{**orjson.loads(entry.content), "kind": entry.kind} for entry in entries(database)]
    return [content for content in found if content.get("run") == run_id]


def verify(database: Database) -> list[str]:
    """What is wrong with the chain, in words; nothing where it is whole."""
    with database.read() as connection:
        rows = connection.execute(select(ledger).order_by(ledger.c.number)).all()
        written = connection.scalar(select(counters.c.value).where(counters.c.name == COUNTER)) or 0
    problems = []
    former, expected = ORIGIN, 1
    for entry in (Entry(**row._mapping) for row in rows):
        if entry.number != expected:
            problems.append(f"entries {expected} to {entry.number - 1} are missing")
        elif entry.hash != chained(former, entry.number, entry.at, entry.kind, entry.content):
            problems.append(f"entry {entry.number} ({entry.kind}) or the one before it was changed")
        former, expected = entry.hash, entry.number + 1
    if expected - 1 < written:
        problems.append(f"entries {expected} to {written} are missing at the end")
    elif expected - 1 > written:
        problems.append(f"entries {written + 1} to {expected - 1} were inserted at the end")
    return problems
