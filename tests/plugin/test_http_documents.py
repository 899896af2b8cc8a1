from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import httpx
import orjson
import pytest
from fastapi import FastAPI

from clickloop.plugin.app import create_app
from clickloop.plugin.loop import ClickLoop
from clickloop.plugin.settings import Settings
from clickloop.retriever.documents import MAX_DEPTH

Serving = Callable[..., AbstractContextManager[str]]
JSON = {"Content-Type": "application/json"}
THREADS = 40  # that all routes share


def put(api: httpx.Client, *documents: dict[str, Any], wait: bool = True) -> int:
    answer = api.post("/v1/documents", json={"documents": documents, "wait": wait})
    assert answer.status_code == 200, answer.text
    assert answer.json()["accepted"] == len(documents)
    return int(answer.json()["revision"])


def path(id_: str) -> str:
    return "/v1/documents/" + quote(id_, safe="")


def get(api: httpx.Client, id_: str) -> httpx.Response:
    return api.get(path(id_))


def found(api: httpx.Client, query: str) -> dict[str, dict[str, Any]]:
    """All hits by id."""
    answer = api.post("/v1/search", json={"query": query, "k": 1000, "log": False})
    assert answer.status_code == 200, answer.text
    return {hit["id"]: hit for hit in answer.json()["hits"]}


def test_a_document_that_was_waited_for_is_found_at_once(api: httpx.Client) -> None:
    for number in range(5):
        put(api, {"id": f"waited-{number}", "text": f"split the string {number}"})
        assert f"waited-{number}" in found(api, "split the string")


def test_a_wait_that_is_too_long_ends_with_the_revision(
    tmp_path: Path, settings_for: Callable[[Path], Settings], serving: Callable[..., AbstractContextManager[str]]
) -> None:
    loop = ClickLoop(settings_for(tmp_path / "data").model_copy(update={"wait_seconds": 0.05}))
    headers = {"Authorization": f"Bearer {loop.keys.create('write')[1]}"}
    with serving(create_app(loop), lifespan="off") as url, httpx.Client(base_url=url, headers=headers) as client:
        answer = client.post("/v1/documents", json={"documents": [{"id": "a", "text": "b"}], "wait": True})
        assert (answer.status_code, answer.json()["revision"]) == (504, 1)
        assert client.get("/v1/documents/a").status_code == 200
    loop.close()


def test_however_many_wait_others_are_answered(
    tmp_path: Path,
    settings_for: Callable[[Path], Settings],
    serving: Callable[..., AbstractContextManager[str]],
    until: Callable[[Callable[[], bool]], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = ClickLoop(settings_for(tmp_path / "data"))
    headers = {"Authorization": f"Bearer {loop.keys.create('write')[1]}"}

    def write(number: int) -> httpx.Response:
        body = {"documents": [{"id": str(number), "text": "b"}], "wait": True}
        return httpx.post(f"{url}/v1/documents", json=body, headers=headers, timeout=60)

    with serving(create_app(loop), lifespan="off") as url, ThreadPoolExecutor(THREADS) as clients:
        waiting = [clients.submit(write, number) for number in range(THREADS)]
        until(lambda: loop.documents.count() == THREADS)
        try:
            with httpx.Client(base_url=url, headers=headers, timeout=10) as client:
                assert client.get("/health").status_code == 200
                assert client.get("/ready").status_code == 503
                assert client.get("/v1/documents/0").status_code == 200
        finally:
            monkeypatch.setattr(loop.releases, "live", lambda: SimpleNamespace(revision=THREADS))
        assert [answer.result().status_code for answer in waiting] == [200] * THREADS
    loop.close()


def test_revisions_grow_with_every_document(api: httpx.Client) -> None:
    first = put(api, {"id": "revised", "text": "a"}, wait=False)
    assert put(api, {"id": "revised", "text": "b"}, {"id": "revised too", "text": "c"}, wait=False) == first + 2
    assert api.delete(path("revised")).json() == {"revision": first + 3}
    assert put(api, wait=False) == first + 3


@pytest.mark.parametrize(
    "id_",
    [
        "a/b/c",
        "/leading",
        "trailing/",
        "a//b",
        "a/../b",
        "two words",
        "Größe 日本語 🙂",
        "50%",
        "a%2Fb",
        "q?x=1&y#z",
        "+",
        "'; DROP TABLE documents; --",
        "two\nlines",
        "\n",
        "x" * 512,
    ],
)
def test_any_text_can_be_an_id(api: httpx.Client, id_: str) -> None:
    put(api, {"id": id_, "title": "map", "text": id_})
    assert found(api, "map")[id_]["text"] == id_
    answer = get(api, id_)
    assert answer.json() == {"id": id_, "title": "map", "text": id_, "payload": {}}
    assert api.delete(path(id_)).status_code == 200
    assert get(api, id_).status_code == 404
    assert id_ not in found(api, "map")


@pytest.mark.parametrize("routes", ["", "/by/a/host"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\nb", "\u2028"])
def test_a_newline_in_an_id_makes_it_another_one(
    api: httpx.Client, loop: ClickLoop, serving: Serving, routes: str, end: str
) -> None:
    host = FastAPI()
    host.include_router(loop.router(), prefix=routes)
    with ExitStack() as stack:
        client = api
        if routes:
            address = stack.enter_context(serving(host, lifespan="off"))
            client = stack.enter_context(httpx.Client(base_url=address + routes, headers=api.headers))
        put(api, {"id": "line", "text": "sort"}, {"id": "line" + end, "text": "split"})
        assert get(client, "line" + end).json()["id"] == "line" + end
        assert client.delete(path("line" + end)).status_code == 200
        assert get(client, "line" + end).status_code == 404
        assert get(client, "line").json()["text"] == "sort"
        put(api, {"id": "line" + end, "text": "split"})
        client.delete(path("line"))
        assert get(client, "line").status_code == 404
        assert get(client, "line" + end).json()["text"] == "split"


def test_slashes_in_a_path_need_no_escape(api: httpx.Client) -> None:
    put(api, {"id": "docs/guide/first steps", "text": "x"})
    assert api.get("/v1/documents/docs/guide/first steps").json()["id"] == "docs/guide/first steps"
    assert api.delete("/v1/documents/docs/guide/first steps").status_code == 200
    assert get(api, "docs/guide/first steps").status_code == 404


def test_deleting_again_or_what_never_was_changes_nothing(api: httpx.Client) -> None:
    put(api, {"id": "short-lived", "text": "sort"})
    revision = api.delete(path("short-lived")).json()["revision"]
    for id_ in ("short-lived", "never was"):
        answer = api.delete(path(id_))
        assert (answer.status_code, answer.json()) == (200, {"revision": revision})


def test_a_deleted_document_is_never_shown_again_and_the_next_ones_move_up(api: httpx.Client) -> None:
    ids = [f"doomed-{number}" for number in range(20)]
    put(api, *({"id": id_, "text": "sort split map"} for id_ in ids))
    for id_ in ids:
        api.delete(path(id_))
        answer = api.post("/v1/search", json={"query": "sort split map", "k": 5, "log": False})
        assert id_ not in [hit["id"] for hit in answer.json()["hits"]]
        assert [hit["rank"] for hit in answer.json()["hits"]] == [1, 2, 3, 4, 5]


def test_a_deleted_id_can_be_used_again(api: httpx.Client) -> None:
    put(api, {"id": "phoenix", "text": "one", "payload": {"life": 1}})
    api.delete(path("phoenix"))
    put(api, {"id": "phoenix", "text": "two"})
    assert get(api, "phoenix").json() == {"id": "phoenix", "title": "", "text": "two", "payload": {}}
    assert found(api, "two")["phoenix"]["text"] == "two"


def test_a_replaced_document_shows_and_is_found_by_its_new_text(api: httpx.Client) -> None:
    put(api, {"id": "changing", "title": "old", "text": "xylophone zebra", "payload": {"old": True}})
    old = found(api, "old xylophone zebra")["changing"]["score"]
    put(api, {"id": "changing", "title": "new", "text": "quick brown fox", "payload": {"new": True}})
    hit = found(api, "old xylophone zebra")["changing"]
    assert (hit["title"], hit["text"], hit["payload"]) == ("new", "quick brown fox", {"new": True})
    assert hit["score"] < old


def test_a_payload_is_kept_as_it_was(api: httpx.Client) -> None:
    payload: dict[str, Any] = {
        "nested": {"list": [1, 2.5, "three", None, True, {"deep": []}]},
        "null": None,
        "big": 2**53 + 1,
        "negative": -0.1,
        "ünïcode 🙂": "\u0000\n\"'",
        "": "empty name",
    }
    put(api, {"id": "laden", "text": "split", "payload": payload})
    assert get(api, "laden").json()["payload"] == payload
    assert found(api, "split")["laden"]["payload"] == payload


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        ({"id": "batch-1", "text": "twice"}, "documents.1.id"),
        ({"id": "empty"}, "documents.1.text"),
        ({"id": "blank", "title": " ", "text": "\n"}, "documents.1.text"),
        ({"id": "", "text": "x"}, "documents.1.id"),
        ({"id": "x" * 513, "text": "x"}, "documents.1.id"),
        ({"id": 7, "text": "x"}, "documents.1.id"),
        ({"text": "x"}, "documents.1.id"),
        ({"id": "bad", "text": None}, "documents.1.text"),
        ({"id": "bad", "text": "x", "payload": [1]}, "documents.1.payload"),
        ({"id": "bad", "text": "x", "url": "y"}, "documents.1.url"),
        ({"id": "bad", "text": "nul \u0000"}, "documents.1.text"),
    ],
)
def test_a_batch_with_one_bad_document_stores_nothing(api: httpx.Client, bad: dict[str, Any], named: str) -> None:
    documents = [{"id": "batch-1", "text": "x"}, bad, {"id": "batch-3", "text": "x"}]
    answer = api.post("/v1/documents", json={"documents": documents})
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["errors"][0]["name"] == named
    assert named in answer.json()["detail"]
    assert get(api, "batch-1").status_code == 404
    assert get(api, "batch-3").status_code == 404


@pytest.mark.parametrize("levels", [MAX_DEPTH, 500, 1000])
def test_a_payload_that_is_too_deep_to_be_found_again_is_refused(api: httpx.Client, levels: int) -> None:
    body = b'{"documents": [{"id": "deep", "text": "x", "payload": {"a": ' + b"[" * levels + b"]" * levels + b"}}]}"
    answer = api.post("/v1/documents", content=body, headers=JSON)
    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["name"] == "documents.0.payload"
    assert get(api, "deep").status_code == 404


@pytest.mark.parametrize(
    "body", [b'{"documents": %s}', b'{"documents": [%s]}', b'{"documents": [{"id": "deep", "text": %s}]}', b"%s"]
)
def test_a_body_is_refused_however_deep_it_is(api: httpx.Client, body: bytes) -> None:
    answer = api.post("/v1/documents", content=body % (b"[" * 1000 + b"]" * 1000), headers=JSON)
    assert answer.status_code == 422, answer.text
    assert len(answer.content) < 1000


def test_a_payload_that_the_index_cannot_read_fails_filters_until_it_is_replaced(
    api: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An earlier version may have stored one."""
    payload: dict[str, Any] = {"size": 7}
    for _ in range(150):
        payload = {"in": payload}
    with monkeypatch.context() as patch:
        patch.setattr("clickloop.retriever.documents.check", lambda *_: None)
        put(api, {"id": "unread", "text": "x", "payload": payload})
    search = {"query": "x", "filter": {"size": 7}, "log": False}
    answer = api.post("/v1/search", json=search)
    assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
    assert "unread" in found(api, "x")
    put(api, {"id": "unread", "text": "x", "payload": {"size": 7}})
    assert [hit["id"] for hit in api.post("/v1/search", json=search).json()["hits"]] == ["unread"]


def test_nul_in_an_id_is_refused(api: httpx.Client) -> None:
    for answer in (get(api, "a\x00b"), api.delete(path("a\x00b"))):
        assert answer.status_code == 422, answer.text
        assert answer.json()["errors"][0]["name"] == "id"


def test_numbers_beyond_64_bits_do_not_break_a_batch(api: httpx.Client) -> None:
    body = (
        b'{"documents": [{"id": "huge", "text": "x", "payload": {"n": 123456789012345678901234567890}}], "wait": true}'
    )
    assert api.post("/v1/documents", content=body, headers=JSON).status_code == 200
    assert orjson.loads(get(api, "huge").content)["payload"]["n"] == pytest.approx(123456789012345678901234567890)
