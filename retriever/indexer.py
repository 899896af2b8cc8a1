"""Bringing an index up to the documents: it is a view of them at a revision."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from sqlalchemy import Connection

from .database import Database
from .documents import changes
from .pointer import set_build
from .releases import Releases
from .search import OpenBuild
from .serving import Encoder, encode_ahead
from .types import Document, StoredDocument, Vectors

BULK = 1024  # documents of like length go together within so many
STEP = 64  # documents encoded and written at a time, so that a serving process never holds the GIL for long


class Indexer:
    """Applies document revisions to builds; only the owner of the index runs one."""

    def __init__(self, database: Database, releases: Releases, durable: bool) -> None:
        """`durable`: what is recorded as indexed survives a power cut."""
        self._database = database
        self._releases = releases
        self._durable = durable

    def step(self, build: OpenBuild) -> int:
        """Applies the next revisions and returns how many; 0 means that the build is current."""
        with self._database.read() as connection:
            batch = changes(connection, build.build.revision, STEP)
        if batch:
            self._apply(build, batch)
            with self._database.write() as connection:
                self.record(connection, build, batch[-1].revision)
        return len(batch)

    def load(self, build: OpenBuild, encoder: Encoder, progress: Callable[[int], None]) -> None:
        """Applies all revisions, for a process that does not serve; the next documents are encoded while these are
        written. `progress` gets the revision that is reached; an interrupted load goes on from there.
        """
        for batch, vectors in encode_ahead(encoder, self._batches(build.build.revision), _alive):
            self._write(build, batch, vectors)
            with self._database.write() as connection:
                self.record(connection, build, batch[-1].revision)
            progress(batch[-1].revision)

    def _batches(self, revision: int) -> Iterator[Sequence[StoredDocument]]:
        while True:
            with self._database.read() as connection:
                batch = changes(connection, revision, BULK)
            if not batch:
                return
            yield batch
            revision = batch[-1].revision

    def finish(self, connection: Connection, build: OpenBuild) -> None:
        """Applies everything that is left, inside a transaction that keeps the writers waiting."""
        while batch := changes(connection, build.build.revision, STEP):
            self._apply(build, batch)
            self.record(connection, build, batch[-1].revision)

    def record(self, connection: Connection, build: OpenBuild, revision: int) -> None:
        set_build(connection, build.build.id, revision=revision)
        build.advance(revision)

    def _apply(self, build: OpenBuild, batch: Sequence[StoredDocument]) -> None:
        self._write(build, batch, build.encoder.documents(_alive(batch)))

    def _write(self, build: OpenBuild, batch: Sequence[StoredDocument], vectors: Vectors) -> None:
        """`vectors`: of the documents of the batch that are alive."""
        alive = [stored for stored in batch if not stored.deleted]
        if alive:
            keys = [stored.key for stored in alive]
            build.index.upsert(keys, vectors, [stored.document.payload for stored in alive])
            revisions = np.array([stored.revision for stored in alive])
            self._releases.vectors(build.release).append(np.array(keys), revisions, vectors)
        build.index.delete([stored.key for stored in batch if stored.deleted])
        if self._durable:
            build.index.flush()


def _alive(batch: Sequence[StoredDocument]) -> list[Document]:
    return [stored.document for stored in batch if not stored.deleted]
