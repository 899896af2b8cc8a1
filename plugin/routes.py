"""The HTTP routes, in groups that take what they need."""

import asyncio
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Histogram, generate_latest
from starlette.concurrency import run_in_threadpool
from starlette.convertors import PathConvertor, register_url_convertor

from ..retriever.documents import Documents
from ..retriever.errors import Conflict, InvalidInput, NotFound
from ..retriever.log import SearchLog
from ..retriever.releases import Releases
from ..retriever.search import Searcher
from ..trainer.runs import Run, Runs
from .auth import Keys, require
from .problems import Handler, Problem, ProblemRoute, direct_handler, keyed
from .reports import Reports
from .schemas import DocumentsBody, EventsBody, SearchBody, answer_json, run_json, sound_events

SEARCHING, TAKING = 16, 8  # searches, and batches of events, at a time; others wait
# A search may hold up the event loop for so many characters and results, if the last one took no longer than this.
SHORT, FEW, QUICK = 200, 100, 0.03


class Searching:
    """Searches and events: what is asked for most, with threads of its own."""

    def __init__(self, searcher: Searcher, log: SearchLog, keys: Keys, registry: CollectorRegistry) -> None:
        self._searcher = searcher
        self._log = log
        self._check = require(keys, "search")
        self._threads = ThreadPoolExecutor(SEARCHING, thread_name_prefix="search")
        # Threads of their own: who waits for the disk delays no search.
        self._taking = ThreadPoolExecutor(TAKING, thread_name_prefix="events")
        self._asked = 0  # searches under way that came directly
        self._took = 0.0  # seconds, by the last one
        self._seconds = Histogram(
            "clickloop_search_seconds",
            "Time to answer a search",
            registry=registry,
            buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2),
        )

    def routes(self) -> APIRouter:
        """For any app: nothing of ours holds up its event loop."""
        router = APIRouter(route_class=keyed(self._check))
        router.add_api_route("/v1/search", self.search, methods=["POST"])
        router.add_api_route("/v1/events", self.events, methods=["POST"])
        return router

    def direct(self, *, at_once: bool) -> dict[str, Handler]:
        """The same by path, for `DirectRoutes` of a service that does little else. `at_once`: a short search that finds
        no other one under way is answered in the event loop, which saves waking a thread and being woken by it. Only
        for an index and a database that no network is between.
        """
        search = self._search_at_once if at_once else self.search
        return {
            "/v1/search": direct_handler(self._check, SearchBody, search),
            "/v1/events": direct_handler(self._check, EventsBody, self.events),
        }

    async def search(self, body: SearchBody) -> Response:
        return _raw(await asyncio.get_running_loop().run_in_executor(self._threads, self._answer, body))

    async def events(self, body: EventsBody) -> Response:
        return _raw(await asyncio.get_running_loop().run_in_executor(self._taking, self._take, body))

    async def _search_at_once(self, body: SearchBody) -> Response:
        self._asked += 1
        try:
            await asyncio.sleep(0)  # all that arrived together are counted: they share calls of the encoder
            short = len(body.query) <= SHORT and body.k <= FEW and body.filter is None
            if self._asked == 1 and short and self._took < QUICK:
                return _raw(self._answer(body))
            return await self.search(body)
        finally:
            self._asked -= 1

    def _answer(self, body: SearchBody) -> bytes:
        began = time.perf_counter()
        found = self._searcher.search(body.query, body.k, body.filter, body.who(), body.log)
        self._took = time.perf_counter() - began
        self._seconds.observe(self._took)
        return orjson.dumps(answer_json(found))

    def _take(self, body: EventsBody) -> bytes:
        good, rejected = sound_events(body)
        counted = self._log.add(good)
        return orjson.dumps({"accepted": counted.accepted, "duplicates": counted.duplicates, "rejected": rejected})


class _AnyText(PathConvertor):
    """As `path`, which finds no id with a newline, and takes `a` for `a\\n`."""

    regex = "(?s:.*)"


def document_routes(
    documents: Documents, keys: Keys, written: Callable[[], None], holds: Callable[[int, float], bool]
) -> APIRouter:
    """`written` is called after every write; `holds(revision, since)` says whether that revision can be found, and
    raises WaitExceeded where somebody has waited too long since then.
    """
    register_url_convertor("clickloop_id", _AnyText())
    router = APIRouter(route_class=keyed(require(keys, "write")))

    waiting = ThreadPoolExecutor(1, thread_name_prefix="waiting")  # looks for all who wait, however many there are

    def store(body: DocumentsBody) -> int:
        revision = documents.put([item.document() for item in body.documents])
        written()
        return revision

    @router.post("/v1/documents")
    async def put(body: DocumentsBody) -> Response:
        revision = await run_in_threadpool(store, body)
        since = time.monotonic()
        while body.wait and not await asyncio.get_running_loop().run_in_executor(waiting, holds, revision, since):
            await asyncio.sleep(0.02)
        return _json({"accepted": len(body.documents), "revision": revision})

    @router.get("/v1/documents/{id:clickloop_id}")
    def get(id: str) -> Response:
        found = documents.get(id)
        return _json({"id": found.id, "title": found.title, "text": found.text, "payload": found.payload})

    @router.delete("/v1/documents/{id:clickloop_id}")
    def delete(id: str) -> Response:
        revision = documents.delete(id)
        written()
        return _json({"revision": revision})

    return router


def run_routes(runs: Runs, reports: Reports, keys: Keys, start: Callable[[str], Run]) -> APIRouter:
    """`start(requested_by)` queues a nightly run and lets it begin."""
    router = APIRouter(route_class=keyed(require(keys, "admin")))

    @router.post("/v1/runs")
    def begin() -> Response:
        return _json({"id": start("api").id}, 202)

    @router.get("/v1/runs")
    def listed(limit: Annotated[int, Query(ge=1, le=200)] = 50, cursor: str | None = None) -> Response:
        try:
            page, following = runs.page(limit, cursor)
        except NotFound:
            raise InvalidInput("cursor", cursor, "use the one that came with the page before") from None
        return _json({"runs": [run_json(run) for run in page], "cursor": following})

    @router.get("/v1/runs/{id}")
    def one(id: str) -> Response:
        return _json(run_json(runs.get(id)))

    @router.get("/v1/runs/{id}/report")
    def report(id: str, request: Request) -> Response:
        run = runs.get(id)
        if _prefers_html(request.headers.get("accept", "")):
            return Response(reports.html(run), media_type="text/html", headers=_PAGE_HEADERS)
        return _json(reports.data(run))

    @router.post("/v1/runs/{id}/approve")
    def approve(id: str) -> Response:
        runs.approve(id, "api")
        return _json({"id": id}, 202)

    @router.post("/v1/runs/{id}/reject")
    def reject(id: str) -> Response:
        runs.reject(id, "api")
        return _json({"id": id})

    return router


def release_routes(releases: Releases, keys: Keys, written: Callable[[], None]) -> APIRouter:
    router = APIRouter(route_class=keyed(require(keys, "admin")))

    @router.get("/v1/releases")
    def listed() -> Response:
        return _json({"releases": releases_json(releases)})

    @router.post("/v1/releases/{id}/activate")
    def activate(id: str) -> Response:
        build = releases.newest_build(id)
        with suppress(Conflict):  # it is live, or will be: there is nothing to ask for
            releases.request_switch(build.id, "rollback", "api")
        written()
        return _json({"id": id, "build": build.id}, 202)

    return router


def page_routes(runs: Runs, reports: Reports, keys: Keys) -> APIRouter:
    """The list of runs and their reports, for a browser."""
    router = APIRouter(route_class=keyed(require(keys, "admin")))

    @router.get("/admin")
    def index() -> Response:
        return Response(reports.index(runs.page(100)[0]), media_type="text/html", headers=_PAGE_HEADERS)

    return router


def health_routes(missing: Callable[[], list[str]], registry: CollectorRegistry) -> APIRouter:
    """`missing()` names what keeps the service from answering, and waits for nothing: the event loop asks it, so that
    there is an answer however busy all threads are.
    """
    router = APIRouter(route_class=ProblemRoute)

    # Monitors ask with HEAD; the server leaves out the body.
    @router.head("/health", include_in_schema=False)
    @router.get("/health")
    async def health() -> Response:
        return _json({"status": "ok"})

    @router.head("/ready", include_in_schema=False)
    @router.get("/ready")
    async def ready() -> Response:
        if lacking := missing():
            raise Problem(503, "not ready: " + "; ".join(lacking), headers={"Retry-After": "2"}, missing=lacking)
        return _json({"status": "ready"})

    @router.head("/metrics", include_in_schema=False)
    @router.get("/metrics")
    def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return router


def releases_json(releases: Releases) -> list[dict[str, Any]]:
    live = releases.live()
    kept = {build.release_id for build in releases.retired()}
    return [
        {
            "id": release.id,
            "parent": release.parent,
            "engine": release.engine,
            "dimension": release.dimension,
            "created_at": release.created_at,
            "live": live is not None and release.id == live.release_id,
            "can_roll_back_to": release.id in kept,
            "lineage": release.lineage,
        }
        for release in releases.list()
    ]


# A report holds queries and document texts: no script runs on its page and nothing is fetched.
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


def _prefers_html(accept: str) -> bool:
    """By the weights of RFC 9110; of kinds that weigh the same it is HTML where that is named, as by browsers."""
    weights = {}
    for part in accept.lower().split(","):
        kind, _, parameters = part.partition(";")
        weight = re.search(r"\bq=([01](\.\d*)?)", parameters)
        weights[kind.strip()] = float(weight[1]) if weight else 1.0
    html = weights.get("text/html", 0.0)
    return html > 0 and html >= weights.get("application/json", weights.get("*/*", 0.0))


def _json(content: Any, status: int = 200) -> Response:
    return _raw(orjson.dumps(content), status)


def _raw(content: bytes, status: int = 200) -> Response:
    return Response(content, status, media_type="application/json")
