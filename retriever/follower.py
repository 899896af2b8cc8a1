"""A process that answers from a shared index which another one owns, and takes over when that one is gone."""

import logging
import threading

from .errors import ClickLoopError
from .index import IndexStore
from .owner import Owner
from .releases import Releases
from .search import Live, OpenBuild
from .types import Build

log = logging.getLogger(__name__)

POLL_SECONDS = 0.5


class Follower:
    """Looks at the pointer twice a second; tries as often to become the owner, and again where it lost that."""

    def __init__(self, owner: Owner, releases: Releases, store: IndexStore, live: Live) -> None:
        self._owner = owner
        self._releases = releases
        self._store = store
        self._live = live
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="follower", daemon=True)

    def open(self) -> None:
        """Returns once the pointer was looked at. Raises as Owner.open does when this process is the owner."""
        self._look()
        self._thread.start()

    def wake(self) -> None:
        self._owner.wake()

    def close(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self._owner.close()

    def _loop(self) -> None:
        while not self._stop.wait(POLL_SECONDS):
            try:
                self._look()
            except Exception:
                log.exception("the live build could not be followed; trying again")

    def _look(self) -> None:
        if self._owner.acts():
            return
        if self._owner.acquire():
            try:
                self._owner.open_and_run()
            except BaseException:
                self._owner.release()  # for whoever tries next, this process too
                raise
            return
        build, current = self._releases.live(), self._live.current()
        if build is not None and (current is None or current.build.id != build.id):
            self._live.install(self._open(build))
        self._look_at_challenger()

    def _look_at_challenger(self) -> None:
        """Never fails: without it people see the champion alone."""
        build, current = self._releases.challenger_build(), self._live.challenger()
        if build is None:
            self._live.challenge(None)
        elif current is None or current.build.id != build.id:
            try:
                self._live.challenge(self._open(build))
            except ClickLoopError:
                log.warning("the challenger %s cannot be opened", build.release_id, exc_info=True)

    def _open(self, build: Build) -> OpenBuild:
        release = self._releases.get(build.release_id)
        encoder = self._releases.encoder(release)
        return OpenBuild(build, release, encoder, self._store.open(build.id))
