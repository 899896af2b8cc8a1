"""Documents: the source of truth that every index is a view of."""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
import orjson
from sqlalchemy import Connection, Row, delete, func, select

from .database import Database, highest, newest_revision, next_revisions
from .errors import InvalidInput, NotFound
from .remembered import Remembered
from .schema import documents
from .types import Document, Keys, Payload, StoredDocument

MAX_ID = 512  # characters
MAX_DEPTH = 100  # levels of a payload: with 128 and more Qdrant's engine cannot read it back, and fails on every filter
MAX_CHANGES = 1000  # more of them since the last look: all remembered documents are forgotten


class Documents:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._remembered = Remembered()

    def put(self, batch: Sequence[Document]) -> int:
        """Inserts or replaces the batch in one transaction; returns the revision of its last document.

        Raises InvalidInput, with nothing stored, for an unusable document or an id that comes twice; it names the
        document by its place in the batch.
        """
        seen: set[str] = set()
        for place, document in enumerate(batch):
            within = f"documents.{place}."
            check(document, within)
            if document.id in seen:
                raise InvalidInput(f"{within}id", document.id, "it comes twice in one batch; send each document once")
            seen.add(document.id)
        with self._database.write() as connection:
            if not batch:
                return newest_revision(connection)
            last = next_revisions(connection, len(batch))
            insert = self._database.insert(documents)
            columns = ("title", "text", "payload", "revision", "deleted")
            statement = insert.on_conflict_do_update(
                index_elements=["id"], set_={name: insert.excluded[name] for name in columns}
            )
            first = last - len(batch) + 1
            connection.execute(statement, [_row(document, first + i) for i, document in enumerate(batch)])
            return last

    def delete(self, id_: str) -> int:
        """Leaves a tombstone and returns its revision; deleting what is not there returns the newest revision."""
        with self._database.write() as connection:
            found = connection.execute(
                select(documents.c.key).where(documents.c.id == id_, ~documents.c.deleted)
            ).scalar_one_or_none()
            if found is None:
                return newest_revision(connection)
            revision = next_revisions(connection, 1)
            emptied = {"title": "", "text": "", "payload": {}, "revision": revision, "deleted": True}
            connection.execute(documents.update().where(documents.c.key == found).values(emptied))
            return revision

    def get(self, id_: str) -> Document:
        with self._database.read() as connection:
            row = connection.execute(select(documents).where(documents.c.id == id_, ~documents.c.deleted)).one_or_none()
        if row is None:
            raise NotFound("document", id_)
        return _stored(row).document

    def by_key(self, keys: Sequence[int]) -> dict[int, Document]:
        """The documents of these keys that are not deleted: what any process wrote before this call is seen."""
        revision, known = self._remembered.take(keys)
        newest, read = self._read([key for key in keys if key not in known])
        if newest != revision:  # somebody has written: what was remembered may be written anew
            self._follow(revision)
            known = {}
            newest, read = self._read(keys)
        self._remembered.learn(newest, read)
        return known | read

    def _read(self, keys: Sequence[int]) -> tuple[int, dict[int, Document]]:
        """Documents that are alive, and the newest revision, at which they are so."""
        if not keys:
            return self._database.revision(), {}
        if self._database.dialect == "sqlite":
            return self._read_fast(keys)
        with self._database.read() as connection:
            newest = newest_revision(connection)
            rows = connection.execute(select(documents).where(documents.c.key.in_(keys), ~documents.c.deleted)).all()
        return newest, {row.key: _stored(row).document for row in rows}

    def _read_fast(self, keys: Sequence[int]) -> tuple[int, dict[int, Document]]:
        """The same in one statement by `driver_rows`."""
        marks = ",".join("?" * len(keys))
        rows = self._database.driver_rows(
            "SELECT (SELECT value FROM counters WHERE name = 'revision'), key, id, title, text, payload "
            f"FROM documents WHERE key IN ({marks}) AND NOT deleted",
            keys,
        )
        found = {key: Document(id_, title, text, orjson.loads(payload)) for _, key, id_, title, text, payload in rows}
        return (rows[0][0] if rows else self._database.revision()), found

    def revision(self) -> int:
        return self._database.revision()

    def count(self) -> int:
        with self._database.read() as connection:
            return count(connection)

    def keys(self) -> Keys:
        """Of all documents that are alive, ascending."""
        with self._database.read() as connection:
            alive = select(documents.c.key).where(~documents.c.deleted).order_by(documents.c.key)
            return np.fromiter(connection.scalars(alive), dtype=np.int64)

    def sample(self, size: int, revision: int) -> list[StoredDocument]:
        """Up to `size` documents, spread over all keys, that are alive and were last written up to `revision`. Costs
        `size` look-ups, whatever the number of documents.
        """
        eligible = (documents.c.revision <= revision) & ~documents.c.deleted
        found = {}
        with self._database.read() as connection:
            highest_key = highest(connection, documents.c.key)
            for start in range(1, highest_key + 1, max(highest_key // size, 1)):
                at = select(documents).where(documents.c.key >= start, eligible).order_by(documents.c.key).limit(1)
                if (row := connection.execute(at).one_or_none()) is not None:
                    found[row.key] = _stored(row)
        return list(found.values())[:size]

    def snapshot(self, revision: int, page: int = 1000) -> Iterator[list[StoredDocument]]:
        """Pages of the documents that are alive and were last written up to `revision`, by key.

        A document written after `revision` is left out: whoever tails the revisions gets it.
        """
        last = 0
        while True:
            with self._database.read() as connection:
                rows = connection.execute(
                    select(documents)
                    .where(documents.c.key > last, documents.c.revision <= revision, ~documents.c.deleted)
                    .order_by(documents.c.key)
                    .limit(page)
                ).all()
            if not rows:
                return
            yield [_stored(row) for row in rows]
            last = rows[-1].key

    def _follow(self, since: int) -> None:
        """Forgets remembered documents that somebody has written after this revision."""
        with self._database.read() as connection:
            newest = newest_revision(connection)
            written = select(documents.c.key).where(documents.c.revision > since).limit(MAX_CHANGES + 1)
            changed = connection.scalars(written).all()
        self._remembered.advance(newest, None if len(changed) > MAX_CHANGES else changed)

    def forget_tombstones(self, revision: int) -> int:
        """Removes tombstones up to `revision`, which every kept build must have passed; returns how many."""
        with self._database.write() as connection:
            gone = delete(documents).where(documents.c.deleted, documents.c.revision <= revision)
            return connection.execute(gone).rowcount


def changes(connection: Connection, after: int, limit: int) -> list[StoredDocument]:
    """The next documents and tombstones written after revision `after`, in their order."""
    rows = connection.execute(
        select(documents).where(documents.c.revision > after).order_by(documents.c.revision).limit(limit)
    ).all()
    return [_stored(row) for row in rows]


def count(connection: Connection) -> int:
    """How many documents are alive. Both counts read an index only: a second for a million texts becomes 10 ms."""
    every = select(func.count()).select_from(documents)
    tombstones = every.where(documents.c.deleted)
    return int(connection.scalar(every) or 0) - int(connection.scalar(tombstones) or 0)


def check(document: Document, within: str = "") -> None:
    """Raises InvalidInput for a document that cannot be stored or found again. The field's name follows `within`."""
    if not document.id or len(document.id) > MAX_ID:
        raise InvalidInput(f"{within}id", document.id, f"use 1 to {MAX_ID} characters")
    if not document.title.strip() and not document.text.strip():
        remedy = f"document {document.id!r} has neither title nor text; give at least one"
        raise InvalidInput(f"{within}text", document.text, remedy)
    for name, value in (("id", document.id), ("title", document.title), ("text", document.text)):
        if "\x00" in value or (not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value)):
            raise InvalidInput(within + name, value, "remove NUL characters and halves of surrogate pairs")
    if _is_deep(document.payload):
        raise InvalidInput(
            f"{within}payload", document.payload, f"nest at most {MAX_DEPTH} levels of objects and lists"
        )
    try:
        whole = orjson.loads(orjson.dumps(dict(document.payload))) == dict(document.payload)
    except (TypeError, ValueError):
        whole = False
    if not whole:
        remedy = "use what JSON can hold: no NaN, no integers beyond 64 bits"
        raise InvalidInput(f"{within}payload", document.payload, remedy)


def _is_deep(payload: Payload) -> bool:
    """Level by level, because recursion ends at some depth too."""
    level: list[Any] = [dict(payload)]
    depth = 0
    while level and depth < MAX_DEPTH:
        inside = chain.from_iterable(value.values() if isinstance(value, dict) else value for value in level)
        level = [value for value in inside if isinstance(value, dict | list)]
        depth += 1
    return bool(level)


def _row(document: Document, revision: int) -> dict[str, object]:
    return {
        "id": document.id,
        "title": document.title,
        "text": document.text,
        "payload": dict(document.payload),
        "revision": revision,
        "deleted": False,
    }


def _stored(row: Row[tuple[object, ...]]) -> StoredDocument:
    document = Document(row.id, row.title, row.text, row.payload)
    return StoredDocument(row.key, row.revision, row.deleted, document)
