"""What nobody needs any more: half-made builds and releases, builds that no rollback can go to, old vectors, memory."""

import ctypes
import logging
import sys

from .documents import Documents
from .index import IndexStore
from .locks import Lock
from .releases import Releases, drop_half_made
from .search import OpenBuild

log = logging.getLogger(__name__)

KEPT_BUILDS = 3  # the live one and those a rollback can go to


class Leftovers:
    """Only the owner of the index removes any."""

    def __init__(self, documents: Documents, releases: Releases, store: IndexStore, night: Lock) -> None:
        """`night` is the lock of the nightly run."""
        self._documents = documents
        self._releases = releases
        self._store = store
        self._night = night

    def clear(self) -> None:
        """Removes what no run will finish, when no run is active."""
        if not self._night.acquire():
            return
        try:
            drop_half_made(self._releases, self._store)
        finally:
            self._night.release()

    def drop_builds(self) -> None:
        """Keeps the builds a rollback may go to, those that were live last, and those that wait for an approval."""
        for build in [*self._releases.retired()[KEPT_BUILDS - 1 :], *self._releases.builds("rejected")]:
            self._store.drop(build.id)
            self._releases.forget_build(build.id)
            self._releases.drop_unused(build.release_id)
        if not self._releases.run_is_active():  # what it builds may need every tombstone since it began
            kept = self._releases.builds()
            self._documents.forget_tombstones(min((build.revision for build in kept), default=0))

    def compact_vectors(self, opened: OpenBuild | None) -> None:
        """Drops stored vectors of documents that were written again or deleted, when there are many. Never fails: until
        the next start or switch the file stays as it is.
        """
        if opened is None:
            return
        stored = self._releases.vectors(opened.release)
        try:
            if stored.worn(opened.index.count()):
                stored.compact(self._documents.keys())
        except Exception:
            log.warning("the stored vectors of %s were not compacted", opened.release.id, exc_info=True)


def give_back_memory() -> None:
    """Asks the C library for what a retired model took: glibc keeps freed memory, a hundred MB after some switches."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
