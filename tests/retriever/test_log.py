import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from itertools import count
from typing import NoReturn

import pytest
from sqlalchemy import Connection, select

from clickloop.retriever import log as module
from clickloop.retriever.database import Database
from clickloop.retriever.errors import DatabaseFault, NotReady
from clickloop.retriever.log import Accepted, SearchLog, _Entry
from clickloop.retriever.schema import events, searches, shown
from clickloop.retriever.types import Event, Search, Shown, Who

PATIENCE_SECONDS = 30
SOMEBODY = Who(client_id="c", attributes={"tier": "gold"})


@pytest.fixture
def log(database: Database) -> Iterator[SearchLog]:
    opened = SearchLog(database)
    yield opened
    opened.close()


def search(query_id: str, *documents: str) -> Search:
    results = [Shown(rank, id_, "semantic", 0.5) for rank, id_ in enumerate(documents, 1)]
    return Search(query_id, "red list", 10, {"colour": "red"}, "b", "r", results, SOMEBODY, 1.5, 100.0)


def event(event_id: str, query_id: str = "q") -> Event:
    return Event(event_id, query_id, "click", "d", 1, SOMEBODY, None, 100.0)


def test_a_search_is_written_without_anything_that_comes_after_it(database: Database, log: SearchLog) -> None:
    log.record(search("q", "one", "two"))
    deadline = time.monotonic() + PATIENCE_SECONDS
    rows = []
    while not rows:
        assert time.monotonic() < deadline
        with database.read() as connection:
            rows = connection.execute(select(searches)).all()
            results = connection.execute(select(shown).order_by(shown.c.rank)).all()
    (row,) = rows
    assert (row.query_id, row.filter, row.client_id, row.attributes) == (
        "q",
        {"colour": "red"},
        "c",
        {"tier": "gold"},
    )
    assert [(one.search_seq, one.rank, one.document_id, one.propensity) for one in results] == [
        (row.seq, 1, "one", 0.5),
        (row.seq, 2, "two", 0.5),
    ]


def test_an_event_knows_the_searches_that_came_before_it(database: Database, log: SearchLog) -> None:
    log.record(search("asked"))
    log.add([event("1", "asked"), event("2", "never asked")])
    with database.read() as connection:
        known = {row.query_id: row.query_known for row in connection.execute(select(events))}
    assert known == {"asked": True, "never asked": False}


def test_searches_keep_the_order_in_which_they_came(database: Database, log: SearchLog) -> None:
    for number in range(300):
        log.record(search(f"q{number}", "one"))
    log.add([event("to wait for the log")])
    with database.read() as connection:
        assert connection.scalars(select(searches.c.query_id).order_by(searches.c.seq)).all() == [
            f"q{number}" for number in range(300)
        ]


def test_an_event_that_comes_again_is_a_duplicate_in_its_batch_and_later(log: SearchLog) -> None:
    assert log.add([event("1"), event("1"), event("2")]) == Accepted(2, 1)
    assert log.add([event("2"), event("3")]) == Accepted(1, 1)
    assert log.add([]) == Accepted(0, 0)


def test_of_two_who_send_the_same_events_one_brings_each(database: Database, log: SearchLog) -> None:
    counted: list[Accepted] = []
    batch = [event(str(number)) for number in range(50)]
    threads = [threading.Thread(target=lambda: counted.append(log.add(batch))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(one.accepted for one in counted) == 50
    assert sum(one.duplicates for one in counted) == 350
    with database.read() as connection:
        assert len(connection.execute(select(events)).all()) == 50


def test_while_the_database_refuses_no_more_than_the_limit_waits(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 25)
    monkeypatch.setattr(module, "MAX_GROUP", 10)
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.05)
    log, refused = SearchLog(database), threading.Event()

    def refuse() -> None:
        refused.set()
        raise DatabaseFault("full")

    with monkeypatch.context() as patch:
        patch.setattr(database, "write", refuse)
        for number in range(25):
            log.record(search(f"q{number:02}"))
        assert refused.wait(PATIENCE_SECONDS)
        taken = 25
        with suppress(NotReady):  # those that are being tried at this moment leave room for as many
            for taken in range(25, 50):
                log.record(search(f"q{taken:02}"))
                time.sleep(0.01)
        assert taken <= 35
        with pytest.raises(NotReady):
            log.add([event("told at once")])
    log.close()
    with database.read() as connection:
        written = connection.scalars(select(searches.c.query_id).order_by(searches.c.seq)).all()
    assert written == [f"q{number:02}" for number in range(taken)]


def test_an_entry_that_cannot_be_written_takes_no_other_along(database: Database, log: SearchLog) -> None:
    log.record(search("before"))
    log.record(replace(search("broken"), filter={"year": object()}))
    log.record(search("after"))
    assert log.add([event("e", "after")]) == Accepted(1, 0)
    with database.read() as connection:
        assert connection.scalars(select(searches.c.query_id).order_by(searches.c.seq)).all() == ["before", "after"]


def test_a_log_that_was_closed_is_opened_again(database: Database) -> None:
    log = SearchLog(database)
    log.close()
    log.open()
    log.record(search("again"))
    log.close()
    with database.read() as connection:
        assert connection.scalars(select(searches.c.query_id)).all() == ["again"]


def test_closing_writes_what_waits_and_takes_no_more(database: Database) -> None:
    log = SearchLog(database)
    for number in range(20):
        log.record(search(f"q{number}", "one"))
    log.close()
    with database.read() as connection:
        assert len(connection.execute(select(searches)).all()) == 20
    with pytest.raises(NotReady, match="closed"):
        log.record(search("late"))
    with pytest.raises(NotReady, match="closed"):
        log.add([event("late")])
    log.close()


def test_events_that_come_while_the_log_ends_in_vain_are_refused(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, answers = SearchLog(database), list[Exception]()

    def add() -> None:
        try:
            log.add([event("late")])
        except NotReady as error:
            answers.append(error)

    late = threading.Thread(target=add, daemon=True)
    ended = log._ended

    def between(written: bool) -> bool:
        """Here another thread has its turn."""
        late.start()
        while not log._waiting[-1].events:
            time.sleep(0.001)
        return ended(written)

    with monkeypatch.context() as patch:
        patch.setattr(log, "_ended", between)
        patch.setattr(database, "write", _refuse)
        log.record(search("waits"))
        log.close()
    late.join(PATIENCE_SECONDS)
    assert ["closed" in str(error) for error in answers] == [True]
    log.open()
    log.add([event("next")])
    with database.read() as connection:
        assert connection.scalars(select(searches.c.query_id)).all() == ["waits"], "which the next start writes"
    log.close()


def test_searches_keep_their_order_when_the_database_refuses_between_them(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that cannot be written has the others written one by one, and then the database is away."""
    log = SearchLog(database)
    log.close()
    calls, back, real = count(1), threading.Event(), database.write

    def write() -> AbstractContextManager[Connection]:
        """All together, the first one, and no more."""
        return real() if next(calls) <= 2 or back.is_set() else _refuse()

    monkeypatch.setattr(database, "write", write)
    entries = [
        search("q0"),
        replace(search("broken"), filter={"year": object()}),
        *(search(f"q{n}") for n in (1, 2, 3)),
    ]
    log._waiting.extend(_Entry(search=one) for one in entries)
    log.open()
    log.close()
    back.set()
    log.open()
    log.add([event("to wait for the log")])
    with database.read() as connection:
        written = connection.scalars(select(searches.c.query_id).order_by(searches.c.seq)).all()
    assert written == ["q0", "q1", "q2", "q3"]
    log.close()


def _refuse() -> NoReturn:
    raise DatabaseFault("full")
