"""The ledger: a changed, removed or inserted entry is found."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from sqlalchemy import Connection

from clickloop.retriever.database import Database
from clickloop.retriever.ledger import append, chained, entries, verify

ENTRIES = 6


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(f"sqlite:///{tmp_path / 'clickloop.db'}")
    for number in range(1, ENTRIES + 1):
        with made.write() as connection:
            append(connection, "decision", run=f"run-{number}", p_value=number / 1000)
    yield made
    made.close()


def tamper(database: Database, *statements: str) -> list[str]:
    with database.write() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    return verify(database)


def test_an_untouched_ledger_is_whole_and_says_what_was_decided(database: Database) -> None:
    assert verify(database) == []
    found = entries(database)
    assert [entry.number for entry in found] == list(range(1, ENTRIES + 1))
    assert orjson.loads(found[2].content) == {"run": "run-3", "p_value": 0.003}
    assert len({entry.hash for entry in found}) == ENTRIES


def test_an_empty_ledger_is_whole(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'empty.db'}")
    assert (verify(database), entries(database)) == ([], [])
    database.close()


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE ledger SET content = replace(content, '0.003', '0.3') WHERE number = 3",
        "UPDATE ledger SET kind = 'approval' WHERE number = 3",
        "UPDATE ledger SET at = at - 86400 WHERE number = 3",
        "UPDATE ledger SET hash = (SELECT hash FROM ledger WHERE number = 5) WHERE number = 3",
    ],
)
def test_a_changed_entry_is_found(database: Database, change: str) -> None:
    assert "entry 3" in tamper(database, change)[0]


def test_a_changed_entry_with_a_hash_made_anew_is_found_by_its_successor(database: Database) -> None:
    second, third = entries(database)[1:3]
    forged = third.content.replace("0.003", "0.3")
    made = chained(second.hash, third.number, third.at, third.kind, forged)
    problems = tamper(database, f"UPDATE ledger SET content = '{forged}', hash = '{made}' WHERE number = 3")
    assert "entry 4" in problems[0]


@pytest.mark.parametrize("number", [1, 3, ENTRIES])
def test_a_removed_entry_is_found(database: Database, number: int) -> None:
    assert str(number) in tamper(database, f"DELETE FROM ledger WHERE number = {number}")[0]


def test_a_removed_entry_is_found_though_the_later_ones_moved_up(database: Database) -> None:
    assert tamper(
        database,
        "DELETE FROM ledger WHERE number = 3",
        "UPDATE ledger SET number = number - 1 WHERE number > 3",
        "UPDATE counters SET value = value - 1 WHERE name = 'ledger'",
    )


def test_an_inserted_entry_is_found(database: Database) -> None:
    copy = "INSERT INTO ledger SELECT {}, at, 'approval', content, hash FROM ledger WHERE number = {}"
    room = [
        "UPDATE ledger SET number = -number - 1 WHERE number >= 3",
        "UPDATE ledger SET number = -number WHERE number < 0",
    ]
    assert tamper(database, copy.format(ENTRIES + 1, ENTRIES))
    assert tamper(database, f"DELETE FROM ledger WHERE number = {ENTRIES + 1}") == []
    assert tamper(database, *room, copy.format(3, 1))


def test_writers_at_the_same_time_make_one_chain(database: Database) -> None:
    def write(number: int) -> None:
        with database.write() as connection:
            append(connection, "switch", build=f"build-{number}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(40)))
    assert verify(database) == []
    assert len(entries(database)) == ENTRIES + 40


def test_an_entry_of_a_transaction_that_failed_was_never_there(database: Database) -> None:
    with database.engine.connect() as connection, connection.begin() as transaction:
        append(connection, "decision", run="run-lost")
        transaction.rollback()
    assert verify(database) == []
    assert len(entries(database)) == ENTRIES


def test_what_is_appended_while_a_ledger_is_verified_is_not_missing(
    postgres: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = postgres.read

    @contextmanager
    def read() -> Iterator[Any]:
        with real() as connection:
            yield Interrupted(connection, postgres)

    with postgres.write() as connection:
        append(connection, "decision", run="run-1")
    monkeypatch.setattr(postgres, "read", read)
    assert verify(postgres) == []
    monkeypatch.undo()
    assert len(entries(postgres)) == 2


class Interrupted:
    """After the first statement of this connection another process appends an entry."""

    def __init__(self, connection: Connection, database: Database) -> None:
        self._connection = connection
        self._database = database

    def execute(self, statement: Any) -> Any:
        found = self._connection.execute(statement)
        with self._database.write() as connection:
            append(connection, "decision", run="run-2")
        return found

    def scalar(self, statement: Any) -> Any:
        return self._connection.scalar(statement)
