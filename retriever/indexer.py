"""Bringing an index up to the documents: it is a view of them at a revision."""

from collections.abc import Sequence

import numpy as np
from sqlalchemy import Connection

from .database import Database
from .documents import changes
from .encoder import Encoder
from .releases import Releases, set_build
from .search import OpenBuild
from .types import StoredDocument

STEP = 64  # documents encoded and written at a time, so that a serving process never holds the GIL for long


class Indexer:
    """Applies document revisions to builds; only the owner of the index runs one."""

    def __init__(self, database: Database, releases: Releases, durable: bool) -> None:
        """`durable`: what is recorded as indexed survives a power cut."""
        self._database = database
        self._releases = releases
        self._durable = durable

    def step(self, build: OpenBuild, encoder: Encoder | None = None, limit: int = STEP) -> int:
        """Applies the next revisions and returns how many; 0 means that the build is current."""
        with self._database.read() as connection:
            batch = changes(connection, build.build.revision, limit)
        if batch:
            self._apply(build, batch, encoder or build.encoder)
            with self._database.write() as connection:
                self.record(connection, build, batch[-1].revision)
        return len(batch)

    def finish(self, connection: Connection, build: OpenBuild) -> None:
        """Applies everything that is left, inside a transaction that keeps the writers waiting."""
        while batch := changes(connection, build.build.revision, STEP):
            self._apply(build, batch, build.encoder)
            self.record(connection, build, batch[-1].revision)

    def record(self, connection: Connection, build: OpenBuild, revision: int) -> None:
        set_build(connection, build.build.id, revision=revision)
        build.advance(revision)

    def _apply(self, build: OpenBuild, batch: Sequence[StoredDocument], encoder: Encoder) -> None:
        alive = [stored for stored in batch if not stored.deleted]
        if alive:
            vectors = encoder.documents([stored.document for stored in alive])
            keys = [stored.key for stored in alive]
            build.index.upsert(keys, vectors, [stored.document.payload for stored in alive])
            revisions = np.array([stored.revision for stored in alive])
            self._releases.vectors(build.release).append(np.array(keys), revisions, vectors)
        build.index.delete([stored.key for stored in batch if stored.deleted])
        if self._durable:
            build.index.flush()
