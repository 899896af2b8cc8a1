"""The log of what was shown and what people did: one thread writes, and whoever waits shares its transactions."""

import logging
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import orjson
from sqlalchemy import Connection, Table, bindparam, select

from .database import Database
from .errors import DatabaseFault, NotReady
from .schema import events, searches, shown
from .types import Event, Search, Who

log = logging.getLogger(__name__)

MAX_WAITING = 20_000  # entries; more means that the disk does not keep up
MAX_GROUP = 5_000  # searches and events that share one transaction
RETRY_SECONDS = 1.0
GATHER_SECONDS = 0.1  # for which searches wait for others to share their transaction; events never wait


@dataclass(frozen=True, slots=True)
class Accepted:
    accepted: int
    duplicates: int


@dataclass(slots=True)
class _Entry:
    search: Search | None = None
    events: Sequence[Event] = ()
    done: Future[Accepted] = field(default_factory=Future)


class SearchLog:
    """Group commit: while one transaction is written, the next entries gather and share the following one."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._insert_searches, self._insert_shown, self._insert_events = _statements(database)
        self._waiting: deque[_Entry] = deque()
        self._some = threading.Event()  # entries wait
        self._hurry = threading.Event()  # somebody waits for them
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self.open()

    def open(self) -> None:
        """Writes again after `close`. Idempotent."""
        if self._thread is None:
            self._closing = self._closed = False
            self._thread = threading.Thread(target=self._run, name="search-log", daemon=True)
            self._thread.start()

    def record(self, search: Search) -> None:
        """Returns at once; the search is written within GATHER_SECONDS, before any event that comes after it."""
        self._put(_Entry(search=search))

    def add(self, batch: Sequence[Event]) -> Accepted:
        """Returns when the events are committed. An event id that is already there counts as a duplicate.

        Raises DatabaseFault when they could not be written; sending them again is safe.
        """
        if not batch:
            return Accepted(0, 0)
        entry = _Entry(events=batch)
        self._put(entry)
        return entry.done.result()

    def close(self) -> None:
        """Writes what waits, then stops."""
        if self._thread is not None:
            self._closing = True
            self._hurry.set()
            self._some.set()
            self._thread.join()
            self._thread = None

    def _put(self, entry: _Entry) -> None:
        with self._lock:
            if self._closed:
                raise NotReady("the search log is closed")
            if len(self._waiting) >= MAX_WAITING:
                raise NotReady(f"{MAX_WAITING} log entries wait for the database; try again later")
            self._waiting.append(entry)
        if entry.events:
            self._hurry.set()
        # Waking the thread for every search would cost a change of threads each.
        if not self._some.is_set():
            self._some.set()

    def _run(self) -> None:
        written = True
        while True:
            self._some.wait(None if written else RETRY_SECONDS)
            self._hurry.wait(GATHER_SECONDS if written else RETRY_SECONDS)
            closing = self._closing
            entries = self._gather()
            written = self._commit(entries) if entries else True
            if closing and self._ended(written):
                return

    def _ended(self, written: bool) -> bool:
        """Whether nothing waits, or cannot be written; from then on nothing is taken."""
        with self._lock:
            self._closed = not (written and self._waiting)
            if not self._closed:
                return False
            left = list(self._waiting)  # what came while the database refused
            self._waiting = deque(entry for entry in left if entry.search is not None)
            searches_left = len(self._waiting)
        _fail(left, NotReady("the search log was closed before the events were written: send them again"))
        if searches_left:
            log.error("%d searches could not be written before the end", searches_left)
        return True

    def _gather(self) -> list[_Entry]:
        """The entries that wait, up to MAX_GROUP searches and events."""
        self._hurry.clear()
        self._some.clear()
        gathered: list[_Entry] = []
        size = 0
        while self._waiting and size < MAX_GROUP:
            gathered.append(self._waiting.popleft())
            size += 1 + len(gathered[-1].events)
        if self._waiting or self._closing:
            self._hurry.set()
            self._some.set()
        return gathered

    def _commit(self, entries: list[_Entry], later: Sequence[_Entry] = ()) -> bool:
        """Writes the entries; False when the database refused: the searches wait on, and before those of `later`."""
        try:
            with self._database.write() as connection:
                self._write_searches(connection, [entry.search for entry in entries if entry.search is not None])
                counted = self._write_events(connection, [entry for entry in entries if entry.events])
        except DatabaseFault as error:
            log.warning("the log could not be written, will try again: %s", error)
            self._put_back([*entries, *later], error)
            return False
        except Exception as error:
            if len(entries) > 1:  # one that cannot be written takes no other along
                return all(self._commit([entry], entries[place:]) for place, entry in enumerate(entries, 1))
            log.exception("a log entry was lost")
            _fail(entries, error)
            return True
        for entry, accepted in counted:
            entry.done.set_result(accepted)
        return True

    def _put_back(self, entries: list[_Entry], error: DatabaseFault) -> None:
        """Searches wait for the next attempt, in their order; who waits for events is told at once."""
        with self._lock:
            unwritten = [*entries, *self._waiting]
            self._waiting = deque(entry for entry in unwritten if entry.search is not None)
            self._hurry.clear()
            self._some.clear()
        _fail(unwritten, error)

    def _write_searches(self, connection: Connection, batch: list[Search]) -> None:
        if not batch:
            return
        rows = [
            {
                "query_id": search.query_id,
                "query": search.query,
                "k": search.k,
                "filter": _json(search.filter),
                "build_id": search.build_id,
                "release_id": search.release_id,
                "took_ms": search.took_ms,
                "arrived_at": search.arrived_at,
                **_who(search.who),
            }
            for search in batch
        ]
        connection.exec_driver_sql(self._insert_searches, rows)
        results = [
            {
                "query_id": search.query_id,
                "rank": result.rank,
                "document_id": result.document_id,
                "ranker": result.ranker,
                "propensity": result.propensity,
                "score": result.score,
            }
            for search in batch
            for result in search.shown
        ]
        if results:
            connection.exec_driver_sql(self._insert_shown, results)

    def _write_events(self, connection: Connection, entries: list[_Entry]) -> list[tuple[_Entry, Accepted]]:
        counted = []
        for entry in entries:
            rows = [_event_row(event) for event in entry.events]
            accepted = connection.exec_driver_sql(self._insert_events, rows).rowcount
            counted.append((entry, Accepted(accepted, len(rows) - accepted)))
        return counted


def _statements(database: Database) -> tuple[str, str, str]:
    """What inserts searches, results shown and events: compiled once, because that takes longer than their execution.

    Rows are of the driver's types: JSON is text. An event that is there already is passed over.
    """
    asked = searches.c.query_id == bindparam("query_id")
    number = select(searches.c.seq).where(asked)
    insert_searches = searches.insert().values({name: bindparam(name) for name in _names(searches, "seq")})
    given: dict[str, Any] = {name: bindparam(name) for name in _names(shown, "search_seq")}
    insert_shown = shown.insert().values({**given, "search_seq": number.scalar_subquery()})
    given = {name: bindparam(name) for name in _names(events, "seq", "query_known")}
    insert_events = database.insert(events).values({**given, "query_known": number.exists()})
    insert_events = insert_events.on_conflict_do_nothing(index_elements=["event_id"])
    return (
        database.compiled(insert_searches),
        database.compiled(insert_shown),
        database.compiled(insert_events),
    )


def _names(table: Table, *without: str) -> list[str]:
    return [column.name for column in table.c if column.name not in without]


def _fail(entries: list[_Entry], error: Exception) -> None:
    for entry in entries:
        if entry.events:
            entry.done.set_exception(error)


def _event_row(event: Event) -> dict[str, Any]:
    return {
        "event_id": event.event_id,
        "query_id": event.query_id,
        "action": event.action,
        "document_id": event.document_id,
        "rank": event.rank,
        "client_time": event.client_time,
        "arrived_at": event.arrived_at,
        **_who(event.who),
    }


def _who(who: Who) -> dict[str, Any]:
    return {
        "application": who.application,
        "client_id": who.client_id,
        "session_id": who.session_id,
        "user_id": who.user_id,
        "attributes": _json(who.attributes),
    }


def _json(value: Mapping[str, Any] | None) -> str | None:
    return None if value is None else orjson.dumps(dict(value)).decode()
