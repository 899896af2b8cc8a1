"""The log of what was shown and what people did: one thread writes, and whoever waits shares its transactions."""

import logging
import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, select

from .database import Database
from .errors import DatabaseFault, NotReady
from .schema import events, searches, shown
from .types import Event, Search, Who

log = logging.getLogger(__name__)

MAX_WAITING = 20_000  # entries; more means that the disk does not keep up
MAX_GROUP = 5_000  # searches and events that share one transaction
RETRY_SECONDS = 1.0


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
        self._queue: queue.Queue[_Entry | None] = queue.Queue(MAX_WAITING)
        self._thread = threading.Thread(target=self._run, name="search-log", daemon=True)
        self._thread.start()

    def record(self, search: Search) -> None:
        """Returns at once; the search is written within milliseconds, before any event that comes after it."""
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
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    def _put(self, entry: _Entry) -> None:
        if not self._thread.is_alive():
            raise NotReady("the search log is closed")
        try:
            self._queue.put_nowait(entry)
        except queue.Full:
            raise NotReady(f"{MAX_WAITING} log entries wait for the database; try again later") from None

    def _run(self) -> None:
        closing = False
        waiting: list[_Entry] = []
        while not closing or waiting:
            waiting += self._gather(bool(waiting))
            closing = closing or any(entry is None for entry in waiting)
            entries = [entry for entry in waiting if entry is not None]
            waiting = self._commit(entries) if entries else []
            if closing and waiting:
                log.error("%d searches could not be written before the end", len(waiting))
                return

    def _gather(self, retrying: bool) -> list[Any]:
        """At least one entry, and all others that wait; while something is to be retried, not for long."""
        gathered: list[Any] = []
        size = 0
        try:
            gathered.append(self._queue.get(timeout=RETRY_SECONDS if retrying else None))
            while size < MAX_GROUP:
                size += 1 + (len(gathered[-1].events) if gathered[-1] else 0)
                gathered.append(self._queue.get_nowait())
        except queue.Empty:
            pass
        return gathered

    def _commit(self, entries: list[_Entry]) -> list[_Entry]:
        """Writes the entries; returns the searches that have to be tried again."""
        try:
            with self._database.write() as connection:
                self._write_searches(connection, [entry.search for entry in entries if entry.search is not None])
                counted = self._write_events(connection, [entry for entry in entries if entry.events])
        except DatabaseFault as error:
            log.warning("the log could not be written, will try again: %s", error)
            _fail(entries, error)
            return [entry for entry in entries if entry.search is not None]
        except Exception as error:
            log.exception("log entries were lost")
            _fail(entries, error)
            return []
        for entry, accepted in counted:
            entry.done.set_result(accepted)
        return []

    def _write_searches(self, connection: Connection, batch: list[Search]) -> None:
        if not batch:
            return
        rows = [
            {
                "query_id": search.query_id,
                "query": search.query,
                "k": search.k,
                "filter": None if search.filter is None else dict(search.filter),
                "build_id": search.build_id,
                "release_id": search.release_id,
                "took_ms": search.took_ms,
                "arrived_at": search.arrived_at,
                **_who(search.who),
            }
            for search in batch
        ]
        statement = searches.insert().returning(searches.c.seq, sort_by_parameter_order=True)
        numbers = connection.scalars(statement, rows).all()
        results = [
            {
                "search_seq": seq,
                "rank": result.rank,
                "document_id": result.document_id,
                "ranker": result.ranker,
                "propensity": result.propensity,
                "score": result.score,
            }
            for seq, search in zip(numbers, batch, strict=True)
            for result in search.shown
        ]
        if results:
            connection.execute(shown.insert(), results)

    def _write_events(self, connection: Connection, entries: list[_Entry]) -> list[tuple[_Entry, Accepted]]:
        rows: dict[str, dict[str, Any]] = {}
        first_in: list[list[str]] = []  # for each entry the event ids that it brought first
        for entry in entries:
            fresh = []
            for event in entry.events:
                if event.event_id not in rows:
                    rows[event.event_id] = _event_row(event)
                    fresh.append(event.event_id)
            first_in.append(fresh)
        if not rows:
            return []
        asked = {row["query_id"] for row in rows.values()}
        known = set(connection.scalars(select(searches.c.query_id).where(searches.c.query_id.in_(asked))))
        for row in rows.values():
            row["query_known"] = row["query_id"] in known
        statement = self._database.insert(events).on_conflict_do_nothing(index_elements=["event_id"])
        added = set(connection.scalars(statement.returning(events.c.event_id), list(rows.values())))
        counted = []
        for entry, fresh in zip(entries, first_in, strict=True):
            accepted = sum(event_id in added for event_id in fresh)
            counted.append((entry, Accepted(accepted, len(entry.events) - accepted)))
        return counted


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
        "attributes": None if who.attributes is None else dict(who.attributes),
    }
