import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import Depends, FastAPI, HTTPException
from pydantic import SecretStr
from qdrant_client import QdrantClient

from clickloop.plugin import ClickLoop, Settings
from clickloop.plugin.settings import Qdrant, Schedule
from clickloop.retriever.errors import DatabaseFault, InUse, InvalidInput, ModelError, NotReady
from clickloop.retriever.locks import open_lock
from clickloop.retriever.qdrant import QdrantStore
from clickloop.retriever.types import Document, Event, Who

Serving = Callable[..., AbstractContextManager[str]]
SettingsFor = Callable[[Path], Settings]
JSON = {"Content-Type": "application/json"}
JSON_TYPES = ["application/json", "application/JSON; charset=utf-8", "application/vnd.api+json"]
OTHER_TYPES = ["application/x-ndjson", "text/json", "application/jsonl", "text/plain; a=json"]
THREADS = 40  # that all routes of an app share


def test_inside_a_hosts_app(data_dir: Path, settings_for: SettingsFor, serving: Serving) -> None:
    seen = []

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        seen.append("host starts")
        yield
        seen.append("host ends")

    app = FastAPI(lifespan=lifespan)
    loop = ClickLoop(settings_for(data_dir))
    app.include_router(loop.router(), prefix="/search")

    @app.get("/own")
    def own() -> dict[str, str]:
        raise HTTPException(418, "the host's own error")

    headers = {"Authorization": f"Bearer {loop.keys.create('search')[1]}"}
    with serving(app) as url, httpx.Client(base_url=url, headers=headers) as client:
        loop.wait_until_ready()
        answer = client.post("/search/v1/search", json={"query": "red list"})
        assert answer.json()["hits"]
        for refused, status in (
            (client.post("/search/v1/search", json={"query": "x", "k": 0}), 422),
            (client.post("/search/v1/search", content=b"{", headers={"Content-Type": "application/json"}), 422),
            (client.post("/search/v1/search", json={"query": "x"}, headers={"Authorization": "Bearer no"}), 401),
            (client.get("/search/v1/runs"), 403),
        ):
            assert refused.status_code == status
            assert refused.headers["content-type"] == "application/problem+json"
        hosts = client.get("/own")
        assert (hosts.status_code, hosts.json()) == (418, {"detail": "the host's own error"})
        assert client.get("/nothing").json() == {"detail": "Not Found"}
    assert seen == ["host starts", "host ends"]
    assert open_lock(loop.database, data_dir / "locks", "owner").acquire(), "the index is still held"


def test_what_a_host_asks_for_before_every_route_holds_for_all(
    data_dir: Path, settings_for: SettingsFor, serving: Serving
) -> None:
    def refuse() -> None:
        raise HTTPException(418, "the host lets nobody in")

    loop = ClickLoop(settings_for(data_dir))
    app = FastAPI()
    app.include_router(loop.router(), prefix="/search", dependencies=[Depends(refuse)])
    headers = {"Authorization": f"Bearer {loop.keys.create('admin')[1]}"}
    event = {"query_id": "q", "action": "click", "document_id": "d"}
    with serving(app) as url, httpx.Client(base_url=f"{url}/search", headers=headers) as client:
        loop.wait_until_ready()
        for answer in (
            client.post("/v1/search", json={"query": "red list"}),
            client.post("/v1/events", json={"events": [event]}),
            client.post("/v1/documents", json={"documents": [{"id": "d", "text": "t"}]}),
            client.get("/v1/runs"),
        ):
            assert answer.status_code == 418, answer.request.url


def test_a_hosts_app_takes_the_preset_admin_key(data_dir: Path, settings_for: SettingsFor, serving: Serving) -> None:
    preset = SecretStr("preset by the host")
    loop = ClickLoop(settings_for(data_dir).model_copy(update={"admin_key": preset}))
    app = FastAPI()
    app.include_router(loop.router(), prefix="/search")
    with serving(app) as url:
        answer = httpx.get(
            f"{url}/search/v1/releases", headers={"Authorization": f"Bearer {preset.get_secret_value()}"}
        )
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("shared", [False, True])
def test_a_start_without_a_preset_key_ends_it_where_no_other_process_can_run(
    data_dir: Path, settings_for: SettingsFor, shared: bool
) -> None:
    settings = settings_for(data_dir)
    if shared:
        settings = settings.model_copy(update={"qdrant": Qdrant(url="http://nobody")})
    server = QdrantClient(":memory:")
    for preset in (SecretStr("preset by another"), None):
        loop = ClickLoop(settings.model_copy(update={"admin_key": preset}))
        if shared:
            loop._store = QdrantStore(server, "test-", {})
        with loop:
            role = loop.keys.role("preset by another")
    assert role == ("admin" if shared else None)


def test_nothing_of_a_body_is_read_before_the_key_is_judged(
    data_dir: Path, settings_for: SettingsFor, serving: Serving
) -> None:
    loop = ClickLoop(settings_for(data_dir))
    app = FastAPI()
    app.include_router(loop.router(), prefix="/search")
    searches = {"Authorization": f"Bearer {loop.keys.create('search')[1]}"}
    with serving(app, lifespan="off") as url, httpx.Client(base_url=f"{url}/search", timeout=60) as client:
        for content in (b"{", bytes(9 * 1024 * 1024)):
            for path in ("/v1/search", "/v1/documents"):
                answer = client.post(path, content=content, headers=JSON)
                assert (answer.status_code, answer.headers["content-type"]) == (401, "application/problem+json")
            assert client.post("/v1/documents", content=content, headers=JSON | searches).status_code == 403
        assert client.post("/v1/search", content=b"{", headers=JSON | searches).status_code == 422
    loop.close()


def test_a_body_is_told_by_its_media_type_and_refused_however_deep_it_is(
    data_dir: Path, settings_for: SettingsFor, serving: Serving
) -> None:
    """By routing; what the service of its own does is in test_http_search.py."""
    loop = ClickLoop(settings_for(data_dir))
    app = FastAPI()
    app.include_router(loop.router(), prefix="/search")
    headers = {"Authorization": f"Bearer {loop.keys.create('search')[1]}"}
    deep = b"[" * 1000 + b"]" * 1000
    with serving(app) as url, httpx.Client(base_url=url, headers=headers) as client:
        loop.wait_until_ready()

        def status(content: bytes, kind: str = "application/json") -> int:
            return client.post("/search/v1/search", content=content, headers={"Content-Type": kind}).status_code

        assert [status(b'{"query": "red"}', kind) for kind in JSON_TYPES] == [200] * len(JSON_TYPES)
        assert [status(b'{"query": "red"}', kind) for kind in OTHER_TYPES] == [422] * len(OTHER_TYPES)
        assert status(b'{"query": ' + deep + b"}") == 422
        assert status(b'{"query": "red", "filter": {"year": ' + deep + b"}}") == 422


def test_a_hosts_routes_that_take_all_threads_keep_nobody_from_searching(
    data_dir: Path, settings_for: SettingsFor, serving: Serving, until: Callable[[Callable[[], bool]], None]
) -> None:
    begun: list[int] = []
    hold = threading.Event()
    loop = ClickLoop(settings_for(data_dir))
    app = FastAPI()
    app.include_router(loop.router(), prefix="/search")

    @app.get("/slow")
    def slow() -> None:
        begun.append(1)
        hold.wait(60)

    headers = {"Authorization": f"Bearer {loop.keys.create('search')[1]}"}
    with serving(app) as url, ThreadPoolExecutor(THREADS) as clients:
        loop.wait_until_ready()
        for _ in range(THREADS):
            clients.submit(httpx.get, f"{url}/slow", timeout=60)
        until(lambda: len(begun) == THREADS)
        try:
            with httpx.Client(base_url=f"{url}/search", headers=headers, timeout=10) as client:
                assert client.post("/v1/search", json={"query": "red list"}).status_code == 200
                assert client.get("/health").status_code == client.get("/ready").status_code == 200
        finally:
            hold.set()


def test_without_http(data_dir: Path, settings_for: SettingsFor) -> None:
    with ClickLoop(settings_for(data_dir)) as loop:
        loop.add_documents([Document("new", "map", "a map of string")], wait=True)
        hits = loop.search("map", k=3, who=Who(user_id="u"))
        assert [hit.rank for hit in hits] == [1, 2, 3]
        assert len(hits) == 3
        assert hits[0].score >= hits[-1].score
        assert loop.search("map", filter={"colour": "red"})[0].payload["colour"] == "red"
        click = Event("e", hits.query_id, "click", hits[0].id, 1, Who(user_id="u"), None, 0.0)
        assert (loop.add_events([click]).accepted, loop.add_events([click]).duplicates) == (1, 1)
        loop.delete_document("new")
        assert "new" not in [hit.id for hit in loop.search("map", k=100)]
        with pytest.raises(InvalidInput, match="query"):
            loop.search(" ")


def test_the_first_search_starts_it(data_dir: Path, settings_for: SettingsFor) -> None:
    loop = ClickLoop(settings_for(data_dir))
    assert len(loop.search("red list")) == 10
    loop.close()


@pytest.mark.parametrize("schedule", [Schedule(enabled=False), Schedule(cron="0 0 29 2 *")], ids=["off", "on"])
def test_closing_twice_is_no_error(data_dir: Path, settings_for: SettingsFor, schedule: Schedule) -> None:
    with ClickLoop(settings_for(data_dir).model_copy(update={"schedule": schedule})) as loop:
        assert loop.missing() == []
        loop.close()
    loop.close()


def test_a_start_that_fails_says_why_and_lets_go_of_the_folder(data_dir: Path, settings_for: SettingsFor) -> None:
    (lost,) = data_dir.glob("releases/*/release.json")
    lost.rename(lost.with_name("lost"))
    failed = ClickLoop(settings_for(data_dir))
    with pytest.raises(ModelError, match=f"release {lost.parent.name} cannot be read.*restore"), failed:
        pass
    lost.with_name("lost").rename(lost)
    with ClickLoop(settings_for(data_dir)) as loop:
        assert len(loop.search("red list")) == 10


def test_what_was_written_is_there_after_the_next_start(data_dir: Path, settings_for: SettingsFor) -> None:
    with ClickLoop(settings_for(data_dir)) as loop:
        loop.add_documents([Document("late", text="written just before the end")])
    with ClickLoop(settings_for(data_dir)) as loop:
        loop.wait_for(loop.documents.revision())
        assert "late" in [hit.id for hit in loop.search("written just before the end", k=100)]


def test_an_index_opens_once_and_the_second_is_told_what_to_do(data_dir: Path, settings_for: SettingsFor) -> None:
    with ClickLoop(settings_for(data_dir)) as loop:
        second = ClickLoop(settings_for(data_dir))
        with pytest.raises(InUse, match=r"in use by process \d+.*qdrant\.url"):
            second.start()
        second.close()
        assert len(loop.search("red list", k=1)) == 1


def test_a_missing_model_is_named_before_anything_starts(tmp_path: Path) -> None:
    loop = ClickLoop(Settings(data_dir=tmp_path / "data", model=str(tmp_path / "nothing here")))
    with pytest.raises(ModelError, match="nothing here"):
        loop.start()
    loop.close()


def test_a_service_that_was_closed_can_be_started_again(data_dir: Path, settings_for: SettingsFor) -> None:
    loop = ClickLoop(settings_for(data_dir))
    for number in range(2):
        loop.start()
        loop.wait_until_ready()
        answer = loop.search("red list")
        assert answer.hits
        assert (
            loop.add_events(
                [Event(f"e{number}", answer.query_id, "click", answer.hits[0].id, 1, Who(), None, 100.0)]
            ).accepted
            == 1
        )
        loop.close()
        with pytest.raises(NotReady, match="closed"):
            loop.search("red list")
    assert open_lock(loop.database, data_dir / "locks", "owner").acquire(), "a late search does not start it again"


def test_a_start_that_fails_half_way_can_be_tried_again(
    data_dir: Path, settings_for: SettingsFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = ClickLoop(settings_for(data_dir))
    with monkeypatch.context() as patch:
        patch.setattr(loop.keys, "ensure_admin", lambda _preset: (_ for _ in ()).throw(DatabaseFault("locked")))
        with pytest.raises(DatabaseFault):
            loop.start()
    with loop:
        assert loop.search("red list").hits


def test_hits_are_the_callers_to_change(data_dir: Path, settings_for: SettingsFor) -> None:
    with ClickLoop(settings_for(data_dir)) as loop:
        loop.add_documents([Document("a", "", "a list", {"tags": ["x"], "secret": 1})], wait=True)
        payload: Any = next(hit for hit in loop.search("list", k=50) if hit.id == "a").payload
        payload.pop("secret")
        payload["tags"].append("y")
        again = next(hit for hit in loop.search("list", k=50) if hit.id == "a")
        assert again.payload == {"tags": ["x"], "secret": 1}
