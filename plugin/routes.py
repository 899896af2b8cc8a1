"""The HTTP routes, in groups that take what they need."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.routing import APIRoute
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Histogram, generate_latest

from ..retriever.documents import Documents
from ..retriever.log import SearchLog
from ..retriever.releases import Releases
from ..retriever.search import Searcher
from ..trainer.runs import Run, Runs
from .auth import Keys, require
from .problems import Handler, Problem, ProblemRoute, direct_handler
from .reports import Reports
from .schemas import DocumentsBody, EventsBody, SearchBody, answer_json, run_json, sound_events

SEARCHING, TAKING = 16, 8  # searches, and batches of events, at a time; others wait


def search_routes(searcher: Searcher, log: SearchLog, keys: Keys, registry: CollectorRegistry) -> APIRouter:
    router = APIRouter(route_class=ProblemRoute, dependencies=[Depends(require(keys, "search"))])
    searching = ThreadPoolExecutor(SEARCHING, thread_name_prefix="search")
    # Threads of their own: who waits for the disk delays no search.
    taking = ThreadPoolExecutor(TAKING, thread_name_prefix="events")
    seconds = Histogram(
        "clickloop_search_seconds",
        "Time to answer a search",
        registry=registry,
        buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2),
    )

    def answer(body: SearchBody) -> bytes:
        with seconds.time():
            found = searcher.search(body.query, body.k, body.filter, body.who(), body.log)
        return orjson.dumps(answer_json(found))

    def take(body: EventsBody) -> bytes:
        good, rejected = sound_events(body)
        counted = log.add(good)
        return orjson.dumps({"accepted": counted.accepted, "duplicates": counted.duplicates, "rejected": rejected})

    @router.post("/v1/search")
    async def search(body: SearchBody) -> Response:
        return _raw(await asyncio.get_running_loop().run_in_executor(searching, answer, body))

    @router.post("/v1/events")
    async def events(body: EventsBody) -> Response:
        return _raw(await asyncio.get_running_loop().run_in_executor(taking, take, body))

    return router


def direct_handlers(router: APIRouter, keys: Keys) -> dict[str, Handler]:
    """The routes of `search_routes` by path, for `DirectRoutes`."""
    check = require(keys, "search")
    return {route.path: direct_handler(check, route.endpoint) for route in router.routes if isinstance(route, APIRoute)}


def document_routes(
    documents: Documents, keys: Keys, written: Callable[[], None], wait_for: Callable[[int], None]
) -> APIRouter:
    """`written` is called after every write; `wait_for(revision)` returns when that revision can be found."""
    router = APIRouter(route_class=ProblemRoute, dependencies=[Depends(require(keys, "write"))])

    @router.post("/v1/documents")
    def put(body: DocumentsBody) -> Response:
        revision = documents.put([item.document() for item in body.documents])
        written()
        if body.wait:
            wait_for(revision)
        return _json({"accepted": len(body.documents), "revision": revision})

    @router.get("/v1/documents/{id:path}")
    def get(id: str) -> Response:
        found = documents.get(id)
        return _json({"id": found.id, "title": found.title, "text": found.text, "payload": found.payload})

    @router.delete("/v1/documents/{id:path}")
    def delete(id: str) -> Response:
        revision = documents.delete(id)
        written()
        return _json({"revision": revision})

    return router


def run_routes(runs: Runs, reports: Reports, keys: Keys, start: Callable[[str], Run]) -> APIRouter:
    """`start(requested_by)` queues a nightly run and lets it begin."""
    router = APIRouter(route_class=ProblemRoute, dependencies=[Depends(require(keys, "admin"))])

    @router.post("/v1/runs")
    def begin() -> Response:
        return _json({"id": start("api").id}, 202)

    @router.get("/v1/runs")
    def listed(limit: Annotated[int, Query(ge=1, le=200)] = 50, cursor: str | None = None) -> Response:
        page, following = runs.page(limit, cursor)
        return _json({"runs": [run_json(run) for run in page], "cursor": following})

    @router.get("/v1/runs/{id}")
    def one(id: str) -> Response:
        return _json(run_json(runs.get(id)))

    @router.get("/v1/runs/{id}/report")
    def report(id: str, request: Request) -> Response:
        run = runs.get(id)
        if "text/html" in request.headers.get("accept", ""):
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
    router = APIRouter(route_class=ProblemRoute, dependencies=[Depends(require(keys, "admin"))])

    @router.get("/v1/releases")
    def listed() -> Response:
        return _json({"releases": releases_json(releases)})

    @router.post("/v1/releases/{id}/activate")
    def activate(id: str) -> Response:
        build = releases.newest_build(id)
        releases.request_switch(build.id, "rollback", "api")
        written()
        return _json({"id": id, "build": build.id}, 202)

    return router


def page_routes(runs: Runs, reports: Reports, keys: Keys) -> APIRouter:
    """The list of runs and their reports, for a browser."""
    router = APIRouter(route_class=ProblemRoute, dependencies=[Depends(require(keys, "admin"))])

    @router.get("/admin")
    def index() -> Response:
        return Response(reports.index(runs.page(100)[0]), media_type="text/html", headers=_PAGE_HEADERS)

    return router


def health_routes(missing: Callable[[], list[str]], registry: CollectorRegistry) -> APIRouter:
    """`missing()` names what keeps the service from answering."""
    router = APIRouter(route_class=ProblemRoute)

    @router.get("/health")
    def health() -> Response:
        return _json({"status": "ok"})

    @router.get("/ready")
    def ready() -> Response:
        if lacking := missing():
            raise Problem(503, "not ready: " + "; ".join(lacking), headers={"Retry-After": "2"}, missing=lacking)
        return _json({"status": "ready"})

    @router.get("/metrics")
    def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return router


def releases_json(releases: Releases) -> list[dict[str, Any]]:
    live = releases.live()
    kept = {build.release_id for build in [live, *releases.retired()] if build is not None}
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


def _json(content: Any, status: int = 200) -> Response:
    return _raw(orjson.dumps(content), status)


def _raw(content: bytes, status: int = 200) -> Response:
    return Response(content, status, media_type="application/json")
