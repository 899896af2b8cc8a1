"""A new build of the live release, when so much was written that its index has become slow.

Nothing is judged: the vectors are those that answer already. A child process makes it at low priority, and it goes live
like a promotion, by a wish that the owner grants.
"""

import logging
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from .building import BATCH, Batch, make_index, tenth_best, verify_index
from .database import Database
from .documents import Documents
from .index import IndexStore
from .locks import Lock
from .pointer import add_switch, set_build
from .releases import Releases, drop_half_made
from .serving import Encoder
from .types import Build, Keys, Release, StoredDocument, Vectors
from .vectors import Newest, scratch

log = logging.getLogger(__name__)

PROBES = 50  # documents whose neighbours are compared with exact search
PAUSE_SECONDS = 3600.0  # after one that failed, was refused, or found that it was not the time


class Compaction:
    """The child's work."""

    def __init__(
        self, database: Database, releases: Releases, store: IndexStore, lock: Lock, min_recall: float
    ) -> None:
        """While `lock` is held no nightly run starts."""
        self._database = database
        self._documents = Documents(database)
        self._releases = releases
        self._store = store
        self._lock = lock
        self._min_recall = min_recall

    def run(self) -> Build | None:
        """Makes the new build and asks the owner for the switch; None when this is not the time for it.

        Raises NoRoom and IndexFault. What it leaves half made is removed by whoever has the lock next.
        """
        if not self._lock.acquire():
            return None
        try:
            live = self._releases.live()
            if live is None or self._releases.run_is_active() or self._releases.wanted() is not None:
                return None
            drop_half_made(self._releases, self._store)
            release = self._releases.get(live.release_id)
            self._store.check_room(self._documents.count(), release.dimension, like=live.id)
            build = self._releases.add_build(release.id)  # from now on no tombstone is forgotten
            revision = self._documents.revision()
            self._build(build, release, revision)
            self._hand_over(build, revision)
            return self._releases.build(build.id)
        finally:
            self._lock.release()

    def _build(self, build: Build, release: Release, revision: int) -> None:
        """Reads page by page; the vectors are checked from a file, so that memory does not grow with the corpus."""
        stored = _Stored(self._releases.vectors(release).newest(), lambda: self._releases.corpus_encoder(release))
        vectors = scratch(self._releases.folder(release.id), self._documents.count(), release.dimension)
        keys: list[int] = []

        def batches() -> Iterator[Batch]:
            for page in self._documents.snapshot(revision, BATCH):
                found = stored.vectors(page)
                vectors[len(keys) : len(keys) + len(page)] = found
                keys.extend(document.key for document in page)
                yield keys[-len(page) :], found, [document.document.payload for document in page]

        log.info("building %s from stored vectors", build.id)
        index = make_index(self._store, build.id, release.dimension, batches(), lambda _done: None)
        try:
            log.info("checking %s", build.id)
            probes = vectors[np.linspace(0, len(keys) - 1, num=min(PROBES, len(keys)), dtype=np.int64)]
            worst = tenth_best(probes, vectors[: len(keys)])
            verify_index(
                index, np.array(keys, dtype=np.int64), vectors.__getitem__, probes, lambda _: worst, self._min_recall
            )
        finally:
            index.close()

    def _hand_over(self, build: Build, revision: int) -> None:
        """Ready and wished for in one transaction: no build is left that nobody waits for."""
        with self._database.write() as connection:
            set_build(connection, build.id, state="ready", revision=revision, optimized=revision)
            add_switch(connection, build.id, "compaction", "system", None)


class _Stored:
    """The vectors of documents, from the log of their release; what is not there is encoded."""

    def __init__(self, newest: Newest, open_: Callable[[], Encoder]) -> None:
        self._newest = newest
        self._open = open_
        self._encoder: Encoder | None = None

    def vectors(self, page: Sequence[StoredDocument]) -> Vectors:
        keys: Keys = np.array([document.key for document in page], dtype=np.int64)
        revisions: Keys = np.array([document.revision for document in page], dtype=np.int64)
        rows, known = self._newest.find(keys, revisions)
        if known.all():
            return self._newest.vectors(rows)
        if self._encoder is None:
            self._encoder = self._open()
        vectors = self._encoder.documents([document.document for document in page])
        vectors[known] = self._newest.vectors(rows[known])
        return vectors


class Compactions:
    """Starts a child when the live index has worn, one at a time."""

    def __init__(self, after: int, spawn: Callable[[], "subprocess.Popen[bytes]"]) -> None:
        """`after` so many writes an index is made anew."""
        self._after = after
        self._spawn = spawn
        self._child: subprocess.Popen[bytes] | None = None
        self._tried: str | None = None  # the build that was to be replaced
        self._not_before = 0.0

    def look(self, live: Build, needed: Callable[[], bool]) -> bool:
        """Starts a child if it is time, unless the pointer is `needed` by others; True when one has failed."""
        if self._child is not None:
            code = self._child.poll()
            if code is None:
                return False
            self._child = None
            if code != 0:
                log.error("the index could not be made anew (exit status %d); trying again later", code)
                self._pause()
                return True
        if live.unoptimized > self._after and time.monotonic() > self._not_before and not needed():
            if live.id == self._tried:
                self._pause()
            else:
                log.info("%d writes since %s was optimised: its index is made anew", live.unoptimized, live.id)
                self._child, self._tried = self._spawn(), live.id
        return False

    def _pause(self) -> None:
        self._tried = None
        self._not_before = time.monotonic() + PAUSE_SECONDS

    def close(self) -> None:
        """Ends the child; the next start of the service tries again."""
        if self._child is not None:
            self._child.terminate()
            self._child.wait()
