"""The composition root: every part is made here and handed to those that need it."""

import logging
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter
from prometheus_client import CollectorRegistry, Gauge
from starlette.concurrency import run_in_threadpool

from ..retriever.compaction import Compaction, Compactions
from ..retriever.database import Database
from ..retriever.documents import Documents
from ..retriever.edge import EdgeStore
from ..retriever.errors import (
    ClickLoopError,
    DatabaseFault,
    DataFolderError,
    InvalidInput,
    NotFound,
    NotReady,
    WaitExceeded,
)
from ..retriever.first_release import Paths
from ..retriever.follower import Follower
from ..retriever.index import IndexStore
from ..retriever.locks import After, Both, Lock, open_lock
from ..retriever.log import Accepted, SearchLog
from ..retriever.model import find_model
from ..retriever.owner import Owner, own_or_refuse
from ..retriever.releases import Releases
from ..retriever.search import Live, Searcher
from ..retriever.types import Answer, Document, Event, Who
from ..trainer.runs import Run, Runs
from .auth import Keys
from .children import spawn
from .nights import Nights
from .problems import Handler, ProblemRoute
from .reports import Reports
from .routes import (
    Searching,
    document_routes,
    health_routes,
    page_routes,
    release_routes,
    run_routes,
)
from .settings import Settings, read_settings

if TYPE_CHECKING:
    from ..trainer.nightly import Night
    from ..trainer.quantise import Quantiser
    from ..trainer.teach import Watcher

log = logging.getLogger(__name__)


class ClickLoop:
    """The whole service. `start` opens the index and begins to follow the schedule, `close` ends both.

        loop = ClickLoop(Settings(data_dir="search"))
        app.include_router(loop.router(), prefix="/search")

    Without HTTP, `with ClickLoop(settings) as loop: loop.search(…)`; the first search starts it where nobody did.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        """Opens the database. Raises SettingsError and DataFolderError."""
        self.settings = settings if settings is not None else read_settings()
        _make_folder(self.settings.data_dir)
        self.database = Database(self.settings.url(), self.settings.durability)
        self.documents = Documents(self.database)
        self.releases = Releases(self.database, self.settings.data_dir / "releases")
        self.runs = Runs(self.database)
        self.keys = Keys(self.database)
        self.reports = Reports(self.settings.data_dir / "runs")
        self.live = Live()
        self.log = SearchLog(self.database)
        traffic = self.settings.promotion.evaluation_traffic
        self.searcher = Searcher(self.live, self.documents, self.log, traffic, self.settings.exploration)
        self.failure: ClickLoopError | None = None
        self._store: IndexStore | None = None
        self._nights = Nights(self.runs, self.settings)
        self._registry = CollectorRegistry()
        self._gauges()
        self._searching = Searching(self.searcher, self.log, self.keys, self._registry)
        self._owner: Owner | None = None
        self._follower: Follower | None = None
        self._opening: threading.Thread | None = None
        self._started = self._closed = False
        self._start_lock = threading.Lock()

    # Life

    def start(self, *, nights: bool = True, on_failure: Callable[[], None] | None = None) -> None:
        """Takes the index, or follows its owner where it is shared; returns before the first build is made.

        Raises InUse when another process has the embedded index, ModelError when the model is missing, Unreachable when
        no Qdrant server answers. A failure that shows only later is kept in `failure`, and `on_failure` is called.
        """
        with self._start_lock:
            if self._started:
                return
            find_model(self.settings.model)
            owner = self.make_owner()
            if self._shared:
                self.store.names()  # says at once that no server answers
            else:
                own_or_refuse(owner, self._lock("owner"), self.settings.data_dir)
            try:
                self._announce_admin_key()
            except BaseException:
                owner.release()  # whoever tries again needs it
                raise
            if self._shared:
                self._follower = Follower(owner, self.releases, self.store, self.live)
                begin = self._follower.open
            else:
                self._owner = owner
                begin = partial(owner.open_and_run, self._compactions())
            self.log.open()
            self.failure, self._closed, self._started = None, False, True
            self._opening = threading.Thread(target=self._open, args=(begin, on_failure), name="opening", daemon=True)
            self._opening.start()
            if nights:
                self._try_golden()
                self._nights.open()

    def close(self) -> None:
        """Idempotent. What was acknowledged is on disk. `start` opens it again, a search does not."""
        with self._start_lock:
            self._nights.close()
            self.log.close()
            if self._opening is not None:
                self._opening.join()
            for part in (self._owner, self._follower):
                if part is not None:
                    part.close()
            self._owner = self._follower = self._opening = None
            self.database.close()
            self._started, self._closed = False, True

    def __enter__(self) -> "ClickLoop":
        try:
            self.start()
            self.wait_until_ready()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

    def wait_until_ready(self) -> None:
        """Returns when a build is live. Raises what kept the first one from being made."""
        while self.live.current() is None:
            if self.failure is not None:
                raise self.failure
            time.sleep(0.02)

    # Use

    def search(
        self, query: str, k: int = 10, filter: Mapping[str, Any] | None = None, who: Who | None = None, log: bool = True
    ) -> Answer:
        """The hits, best first, yours to change; the answer's `query_id` names the search in events."""
        if not self._started:
            if self._closed:
                raise NotReady("the service was closed: start it again, or ask before it is closed")
            self.start()
            self.wait_until_ready()
        found = self.searcher.search(query, k, filter, who, log)
        # Payloads are those that later searches answer with.
        return replace(found, hits=[replace(hit, payload=deepcopy(hit.payload)) for hit in found.hits])

    def add_documents(self, documents: Sequence[Document], wait: bool = False) -> int:
        """Returns the revision of the last; with `wait` when it can be found."""
        revision = self.documents.put(documents)
        self._written()
        if wait:
            self.wait_for(revision)
        return revision

    def delete_document(self, id_: str) -> int:
        revision = self.documents.delete(id_)
        self._written()
        return revision

    def add_events(self, events: Sequence[Event]) -> Accepted:
        return self.log.add(events)

    def wait_for(self, revision: int) -> None:
        """Returns when the live build holds this revision. Raises WaitExceeded after `wait_seconds`."""
        since = time.monotonic()
        while not self._holds(revision, since):
            time.sleep(0.02)

    def run_night(self, run_id: str, show: Callable[[str, float], None], watch: "Watcher | None" = None) -> Run:
        """One nightly run, in this process; `watch` is shown every candidate before it is judged."""
        os.environ["TQDM_DISABLE"] = "1"  # the steps are shown by `show`
        return self.night(watch).run(run_id, show)

    # Parts

    def router(self) -> APIRouter:
        """All routes, with the lifespan that starts and closes the service."""

        @asynccontextmanager
        async def lifespan(_app: object) -> AsyncIterator[None]:
            await run_in_threadpool(self.start)
            try:
                yield
            finally:
                await run_in_threadpool(self.close)

        router = APIRouter(route_class=ProblemRoute, lifespan=lifespan)
        for part in (
            self._searching.routes(),
            document_routes(self.documents, self.keys, self._written, self._holds),
            run_routes(self.runs, self.reports, self.keys, self._nights.start),
            release_routes(self.releases, self.keys, self._written),
            page_routes(self.runs, self.reports, self.keys),
            health_routes(self.missing, self._registry),
        ):
            router.include_router(part)
        return router

    def direct_handlers(self) -> dict[str, Handler]:
        """What is asked for most, by path, for a service that answers it without routing."""
        return self._searching.direct(at_once=not self._shared and self.database.dialect == "sqlite")

    def missing(self) -> list[str]:
        """What keeps the service from answering."""
        if self.failure is not None:
            return [str(self.failure)]
        return [] if self.live.current() is not None else ["the first build is being made"]

    @property
    def store(self) -> IndexStore:
        """Opened on first use: most commands do not need it."""
        if self._store is None:
            qdrant = self.settings.qdrant
            if qdrant.url is None:
                self._store = EdgeStore(self.settings.data_dir / "builds", self.settings.payload_indexes)
            else:
                from ..retriever.qdrant import open_qdrant  # a second of imports that the embedded default is spared

                key = None if qdrant.api_key is None else qdrant.api_key.get_secret_value()
                self._store = open_qdrant(qdrant.url, key, qdrant.prefix, self.settings.payload_indexes)
        return self._store

    def make_owner(self) -> Owner:
        """Somebody who can own the index, once its lock is acquired."""
        folder = self.settings.data_dir / "releases"
        paths = Paths(self.settings.url(), folder, self.settings.model, self.settings.max_tokens)
        locks = (self._lock("owner"), self._lock("night"))
        durable = self.settings.durability == "power"
        return Owner(self.database, self.releases, self.store, self.live, locks, paths, durable)

    def compaction(self) -> Compaction:
        """A new index for the live release; to be run in a process of its own."""
        lock = Both(self._lock("compaction"), self._lock("night"))
        parts = (self.database, self.releases, self.store, lock, self.settings.promotion.min_recall)
        return Compaction(*parts)

    # Nights and quantising bring imports of half a second, which a process that only serves is spared.

    def quantiser(self) -> "Quantiser":
        """Decides whether the live model may encode queries with a byte for each weight."""
        from ..trainer.quantise import Quantiser

        lock = Both(self._lock("compaction"), self._lock("night"))
        return Quantiser(self.database, self.releases, self.store, lock, self.settings.recipe)

    def night(self, watch: "Watcher | None" = None) -> "Night":
        from ..trainer.history import History
        from ..trainer.nightly import Night

        folder, recipe = self.settings.data_dir, self.settings.recipe
        history = History(folder / "history", self.database, recipe)
        lock = After(self._lock("compaction"), self._lock("night"))
        parts = (self.database, self.releases, self.store, self.make_owner, lock, history, folder / "runs", recipe)
        return Night(*parts) if watch is None else Night(*parts, watch)

    def _compactions(self) -> Compactions | None:
        after = self.settings.compact_after
        if after == 0 or self.store.tends_itself:
            return None
        return Compactions(after, partial(spawn, self.settings, "compaction"))

    @property
    def _shared(self) -> bool:
        return self.settings.qdrant.url is not None

    def _lock(self, name: str) -> Lock:
        return open_lock(self.database, self.settings.data_dir / "locks", name)

    def _open(self, begin: Callable[[], None], on_failure: Callable[[], None] | None) -> None:
        try:
            begin()
        except ClickLoopError as error:
            self.failure = error
        except Exception as error:
            log.exception("the index could not be opened")
            self.failure = ClickLoopError(f"the index could not be opened: {error}")
        if self.failure is not None:
            log.error("%s", self.failure)
            if on_failure is not None:
                on_failure()

    def _try_golden(self) -> None:
        """The nights need it, the searches do not: a broken file is told early and keeps nobody from searching."""
        if self.settings.golden.judgments is None:
            return
        from ..trainer.golden import read_golden

        try:
            read_golden(self.settings.golden)
        except InvalidInput as error:
            log.error("nightly runs will fail: %s", error)

    def _announce_admin_key(self) -> None:
        """Only the process that runs the service may change keys, so not before it has the index."""
        preset = self.settings.admin_key
        if preset is None and not self._shared:  # there it may be the key of another process
            self.keys.end_preset()
        made = self.keys.ensure_admin(None if preset is None else preset.get_secret_value())
        if made is not None:
            print(f"clickloop: the admin key, shown this once: {made}", file=sys.stderr, flush=True)

    def _written(self) -> None:
        if self._owner is not None:
            self._owner.wake()
        elif self._follower is not None:
            self._follower.wake()

    def _holds(self, revision: int, since: float) -> bool:
        """Whether the live build holds this revision. Raises WaitExceeded `wait_seconds` after `since` (monotonic)."""
        build = self.releases.live()
        if build is not None and build.revision >= revision:
            return True
        if time.monotonic() > since + self.settings.wait_seconds:
            raise WaitExceeded(revision, self.settings.wait_seconds)
        return False

    def _gauges(self) -> None:
        revision = Gauge("clickloop_documents_revision", "Newest document revision", registry=self._registry)
        revision.set_function(lambda: float(self.documents.revision()))
        indexed = Gauge("clickloop_indexed_revision", "Revision the build that answers holds", registry=self._registry)
        indexed.set_function(self._indexed)

    def _indexed(self) -> float:
        """Of the build that answers here, as its owner recorded it: a process that follows advances none. −1 where none
        answers; while the database cannot be asked, what is known here.
        """
        current = self.live.current()
        if current is None:
            return -1.0
        try:
            return float(self.releases.build(current.build.id).revision)
        except (DatabaseFault, NotFound):
            return float(current.build.revision)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataFolderError(
            f"data_dir: the folder {str(folder)!r} cannot be made ({error.strerror}); name one that can be written"
        ) from None
