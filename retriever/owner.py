"""The owner of the live index: it alone writes to it, and it alone moves the pointer.

Other processes write documents and wishes into the database; the owner sees them there and acts.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from .compaction import Compactions
from .database import Database, hold_documents
from .documents import Documents, count
from .errors import ClickLoopError, IndexFault, IndexLost, InUse, ModelError, NotReady
from .first_release import Paths, first_release
from .index import IndexStore
from .indexer import STEP, Indexer
from .leftovers import Leftovers, give_back_memory
from .locks import Lock
from .pointer import Switch, drop_challenger, finish_switch, set_build, show_step
from .releases import Releases
from .search import Live, OpenBuild
from .types import Build

log = logging.getLogger(__name__)

POLL_SECONDS = 0.2  # how soon writes and wishes of other processes are seen
PATIENCE_SECONDS = 3  # how long a start waits for the lock
SMALL = 1000  # writes, which are not worth loading torch and optimising the index
SAMPLE = 16  # documents that are encoded again before a build goes live: a fraction of a second
MIN_COSINE = 0.99  # to what is stored; bf16, in which a night encodes, costs MiniLM 1e-4 and tiny models up to 3e-3


class Owner:
    """One a service: the lock "owner" says which process it is."""

    def __init__(
        self,
        database: Database,
        releases: Releases,
        store: IndexStore,
        live: Live,
        locks: tuple[Lock, Lock],
        paths: Paths,
        durable: bool = False,
    ) -> None:
        """`locks` are those of the owner and of the nightly run."""
        self._database = database
        self._documents = Documents(database)
        self._releases = releases
        self._store = store
        self._live = live
        self._lock, night = locks
        self._leftovers = Leftovers(self._documents, releases, store, night)
        self._paths = paths
        self._indexer = Indexer(database, releases, durable)
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._settled: tuple[object, ...] | None = None  # the news that left nothing to do
        self._compactions: Compactions | None = None

    def acquire(self) -> bool:
        return self._lock.acquire()

    def open(self) -> None:
        """Clears what crashed runs left behind and opens the live build, making the first one where there is none.

        The caller holds the lock. Raises ModelError when the live release or the first model cannot be loaded, and
        nobody wishes for another one that can be.
        """
        self._settled, present = None, self._live.current()
        self._leftovers.clear()
        build = self._releases.live() or self._first_build()
        try:
            self._live.install(self._open(build))
        except ModelError:
            log.warning("%s cannot answer: looking for a wish to go to another build", build.id, exc_info=True)
            while (wanted := self._releases.wanted()) is not None:
                self._grant(wanted)
            if self._live.current() is present:
                raise
        self._leftovers.drop_builds()

    def open_and_run(self, compactions: Compactions | None = None) -> None:
        """Opens, then acts on the database's wishes in a thread of its own, and has the index made anew as it wears."""
        self.open()
        self._compactions = compactions
        self._thread = threading.Thread(target=self._loop, name="owner", daemon=True)
        self._thread.start()

    def acts(self) -> bool:
        """Whether its thread acts on wishes; it ends when the lock is lost."""
        return self._thread is not None and self._thread.is_alive()

    def wake(self) -> None:
        """Something was written: look at once instead of at the next poll."""
        self._wake.set()

    def release(self) -> None:
        """Lets the next process own the index."""
        self._lock.release()

    def close(self) -> None:
        """Ends the thread, closes the index, and lets the next process own it."""
        self._stop.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
        if self._compactions is not None:
            self._compactions.close()
        self._live.close()
        self.release()

    def tick(self) -> bool:
        """Indexes some of what was written and grants the oldest wish; True while there is more to do."""
        news = self._releases.news()
        if news == self._settled:
            return False
        self._settled = None  # until all of it went well
        self._follow_pointer()
        busy = self._index()
        if not busy and (wanted := self._releases.wanted()) is not None:
            self._grant(wanted)
            give_back_memory()  # here, where nothing holds the former build any more
            busy = True
        busy = self._challenge() or busy
        if not busy and self._releases.builds("rejected"):
            self._leftovers.drop_builds()
        self._settled = None if busy else news
        return busy

    def _follow_pointer(self) -> None:
        """The pointer rules: where a fault hid that it was moved, its build is installed now."""
        wanted, current, opened = self._releases.live(), self._live.current(), self._live.challenger()
        if wanted is None or current is None or wanted.id == current.build.id:
            return
        if opened is None or opened.build.id != wanted.id:
            opened = self._caught_up(wanted)
        self._live.install(opened)
        self._retire()

    def _index(self) -> bool:
        live = self._live.current()
        return live is not None and self._indexer.step(live) == STEP

    def index_all(self, progress: Callable[[int, int], None]) -> None:
        """Indexes everything that was written, for a process that does not serve: with the fastest encoder, and with
        the index optimised at the end. `progress` gets (revision reached, newest revision).
        """
        live = self._live.current()
        assert live is not None
        newest = self._documents.revision()
        if newest - live.build.revision <= SMALL:
            while self._indexer.step(live):
                progress(live.build.revision, newest)
            return
        encoder = self._releases.corpus_encoder(live.release)
        self._indexer.load(live, encoder, lambda reached: progress(reached, newest))
        live.index.finish()
        live.build = replace(live.build, optimized=live.build.revision)
        with self._database.write() as connection:
            set_build(connection, live.build.id, optimized=live.build.optimized)

    def _loop(self) -> None:
        """Ends where the lock is lost and another process may own the index by now: that is followed then."""
        self._leftovers.compact_vectors(self._live.current())
        while not self._stop.is_set():
            try:
                if not self._lock.held():
                    log.error("the lock of the index's owner was lost: the database ended its session")
                    if not self._store.exclusive:
                        return
                    self._acquire_again()
                busy = self.tick()
                if not busy:
                    self._compact()
            except Exception:
                log.exception("the index could not be brought up to date; trying again")
                busy = False
                self._stop.wait(1.0)
            if not busy:
                self._wake.wait(POLL_SECONDS)
                self._wake.clear()

    def _acquire_again(self) -> None:
        """Of an index that is open here, and so nowhere else. Raises InUse while another process has the lock."""
        if not self._lock.acquire():
            raise InUse(f"the lock of the index's owner is held by {self._lock.holder()}")

    def _compact(self) -> None:
        """Has the live index made anew when it has worn, and removes what a failed attempt left."""
        live = self._live.current()
        if self._compactions is None or live is None:
            return
        if self._compactions.look(live.build, self._needed):
            self._leftovers.clear()

    def _needed(self) -> bool:
        """Whether somebody else is about to move the pointer."""
        return self._releases.run_is_active() or self._releases.wanted() is not None

    def _grant(self, wanted: Switch) -> None:
        """Makes a build live with every document written so far, or says in the wish why not.

        Whatever step a crash interrupts, the wish is still there at the next start and all steps are done again, until
        the one that moves the pointer has answered it.
        """
        current = self._live.current()
        open_ones = {opened.build.id: opened for opened in (current, self._live.challenger()) if opened is not None}
        opened = open_ones.get(wanted.build_id)
        try:
            if opened is None:
                opened = self._open(self._releases.build(wanted.build_id))
            if opened is not current:
                self._begin("catching up", wanted)
                self._catch_up(opened, current)
                self._begin("verifying", wanted)
                self._verify(opened)
            self._begin("switching", wanted)
            self._switch(wanted, opened)
        except Exception as error:
            if opened is not None and opened not in open_ones.values():
                opened.retire()
            if isinstance(error, NotReady):
                raise  # database, disk or Qdrant cannot be used now: the wish stays and is looked at again
            log.warning("%s does not go live", wanted.build_id, exc_info=True)
            with self._database.write() as connection:
                finish_switch(connection, wanted.id, error=str(error))
            return
        self._live.install(opened)  # before anything that may fail: this build is live
        self._begin("retiring", wanted)
        self._retire()

    def _begin(self, step: str, wanted: Switch) -> None:
        """Says what is done, in the log and in the run that asked for it."""
        log.info("%s: %s (%s)", step, wanted.build_id, wanted.reason)
        show_step(self._database, wanted.run_id, step)

    def _challenge(self) -> bool:
        """Opens the challenger's build, keeps it current, or closes it, as the database says; True while it lags."""
        wanted, present = self._releases.challenger_build(), self._live.challenger()
        if present is not None and (wanted is None or wanted.id != present.build.id):
            self._live.challenge(None)
            self._leftovers.drop_builds()
            present = None
        if wanted is None:
            return False
        try:
            if present is None:
                present = self._caught_up(wanted)
                self._live.challenge(present)
            return self._indexer.step(present) == STEP
        except NotReady:
            raise
        except ClickLoopError:
            log.warning("the challenger %s cannot be kept and is given up", wanted.release_id, exc_info=True)
            self._live.challenge(None)
            with self._database.write() as connection:
                drop_challenger(connection)
            return False

    def _caught_up(self, build: Build) -> OpenBuild:
        """Opened and brought close to the newest revision."""
        opened = self._open(build)
        try:
            self._catch_up(opened, self._live.current())
        except BaseException:
            opened.retire()
            raise
        return opened

    def _catch_up(self, opened: OpenBuild, current: OpenBuild | None) -> None:
        """Brings a build close to the newest revision while the live one is kept current too."""
        behind = True
        while behind:
            if current is not None:
                self._indexer.step(current)
            behind = self._indexer.step(opened) == STEP
        self._indexer.step(opened)

    def _verify(self, opened: OpenBuild) -> None:
        """Raises IndexFault unless the index holds, for a sample of documents, the vectors that its encoder gives."""
        build = opened.build
        stored = self._documents.sample(SAMPLE, build.revision)
        if not stored:
            return
        found = opened.index.vectors([document.key for document in stored])
        wanted = opened.encoder.documents([document.document for document in stored])
        for document, vector in zip(stored, wanted, strict=True):
            held = found.get(document.key)
            if held is None:
                raise IndexFault(f"the index of {build.id} does not hold document {document.document.id!r}")
            cosine = float(np.dot(held, vector))
            if cosine < MIN_COSINE:
                raise IndexFault(
                    f"the index of {build.id} holds another vector for document {document.document.id!r} than the "
                    f"encoder of {build.release_id} gives: their cosine is {cosine:.4f}"
                )

    def _switch(self, wanted: Switch, opened: OpenBuild) -> None:
        """The last few documents, the exact count and the pointer in one transaction, while the writers wait."""
        with self._database.write() as connection:
            newest = hold_documents(connection)
            self._indexer.finish(connection, opened)
            self._indexer.record(connection, opened, newest)
            expected, found = count(connection), opened.index.count()
            if expected != found:
                raise IndexFault(f"the index of {wanted.build_id} holds {found} documents instead of {expected}")
            finish_switch(connection, wanted.id)

    def _retire(self) -> None:
        """Searches go to another build now: what nobody can go back to is removed."""
        self._challenge()  # closes what may be removed now
        self._leftovers.drop_builds()
        self._leftovers.compact_vectors(self._live.current())

    def _open(self, build: Build) -> OpenBuild:
        """Opens a build; one whose index is lost is made anew from the documents."""
        release, live = self._releases.get(build.release_id), self._live.current()
        if live is not None and live.release.id == release.id:
            encoder = live.encoder
        else:
            encoder = self._releases.encoder(release)
        try:
            index = self._store.open(build.id)
        except IndexLost as error:
            log.warning("%s: it is made anew from the documents", error)
            with self._database.write() as connection:  # first: an empty index must never claim to hold anything
                set_build(connection, build.id, revision=0, optimized=None)
            build = self._releases.build(build.id)
            index = self._store.create(build.id, release.dimension)
        return OpenBuild(build, release, encoder, index)

    def _first_build(self) -> Build:
        """An empty build of the first release, live at once: there is nothing better to answer from."""
        release = first_release(self._releases, self._paths)
        build = self._releases.add_build(release.id)
        self._store.create(build.id, release.dimension).close()
        number = self._releases.request_switch(build.id, "bootstrap", "system")
        with self._database.write() as connection:
            finish_switch(connection, number)
        return self._releases.build(build.id)


def await_switch(releases: Releases, number: int, make_owner: Callable[[], Owner]) -> Switch:
    """The answered wish: by the owner, or, where there is none, by this process in its place."""
    while (switch := releases.switch(number)).state == "requested":
        owner = make_owner()
        if not owner.acquire():
            time.sleep(POLL_SECONDS)
            continue
        try:
            owner.open()
            while releases.switch(number).state == "requested":
                owner.tick()
        finally:
            owner.close()
    return switch


def own_or_refuse(owner: Owner, lock: Lock, folder: Path) -> None:
    """Raises InUse with the remedy when another process owns the embedded index.

    Waits a little first: a nightly run without a server owns it for the moment of its switch.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not owner.acquire():
        if time.monotonic() > deadline:
            raise InUse(
                f"the data folder {folder} is in use by {lock.holder()}: an embedded index opens in one process only. "
                "Stop the other one, run a single worker (no `uvicorn --workers`), or set qdrant.url to share an index"
            )
        time.sleep(POLL_SECONDS)
