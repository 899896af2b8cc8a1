import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from clickloop.plugin.app import create_app
from clickloop.plugin.loop import ClickLoop
from clickloop.plugin.settings import Settings
from clickloop.retriever.schema import searches

JSON = {"Content-Type": "application/json"}
TOO_LARGE = 10 * 1024 * 1024


def search(api: httpx.Client, **body: Any) -> dict[str, Any]:
    answer = api.post("/v1/search", json={"query": "red list", **body})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def problem(answer: httpx.Response, status: int) -> str:
    """The detail of an answer that is a whole problem description."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["status"] == status
    assert body["type"]
    assert body["title"]
    assert body["detail"]
    return str(body["detail"])


def logged(api: httpx.Client, loop: ClickLoop) -> dict[str, Any]:
    """All logged searches by id. An event is written after the searches that came before it."""
    event = {"query_id": "to wait for the log", "action": "click", "document_id": "red-1"}
    assert api.post("/v1/events", json={"events": [event]}).status_code == 200
    with loop.database.read() as connection:
        return {row.query_id: row for row in connection.execute(select(searches))}


def test_an_answer_has_a_query_id_and_ranked_hits(api: httpx.Client, loop: ClickLoop) -> None:
    answer = search(api)
    assert set(answer) == {"query_id", "release", "took_ms", "hits"}
    live = loop.releases.live()
    assert live is not None
    assert answer["release"] == live.release_id
    assert answer["query_id"]
    assert answer["took_ms"] > 0
    assert len(answer["hits"]) == 10
    for hit in answer["hits"]:
        assert set(hit) == {"id", "rank", "score", "title", "text", "payload"}
        assert hit["title"].replace(" list ", "-") == hit["id"]
        assert hit["payload"]["colour"] in hit["text"]
    assert [hit["rank"] for hit in answer["hits"]] == list(range(1, 11))
    scores = [hit["score"] for hit in answer["hits"]]
    assert scores == sorted(scores, reverse=True)


def test_the_exact_text_of_a_document_finds_it_first(api: httpx.Client) -> None:
    assert search(api, query="blue list 2\nthe blue list of string 2")["hits"][0]["id"] == "blue-2"


def test_k_limits_the_hits_and_more_than_there_are_gives_all(api: httpx.Client) -> None:
    assert len(search(api, k=1)["hits"]) == 1
    assert len(search(api, k=1000)["hits"]) == 12


@pytest.mark.parametrize(
    "filter",
    [
        {"colour": "red", "year": {"gte": 2002}},
        {
            "must": [{"key": "colour", "match": {"value": "red"}}],
            "must_not": [{"key": "year", "range": {"lt": 2002}}],
        },
    ],
    ids=["short", "full"],
)
def test_only_documents_that_match_the_filter_are_found(api: httpx.Client, filter: dict[str, Any]) -> None:
    assert [hit["id"] for hit in search(api, filter=filter)["hits"]] == ["red-2"]


def test_a_search_is_logged_with_who_asked_unless_it_asks_not_to_be(api: httpx.Client, loop: ClickLoop) -> None:
    seen = search(api, query=" red list ", session_id="s", client_id="c", user_id="u", filter={"colour": "red"})
    unseen = search(api, log=False)
    rows = logged(api, loop)
    assert unseen["query_id"] not in rows
    row = rows[seen["query_id"]]
    assert (row.query, row.filter, row.session_id, row.client_id, row.user_id) == (
        "red list",
        {"colour": "red"},
        "s",
        "c",
        "u",
    )


def test_every_search_has_its_own_query_id(api: httpx.Client) -> None:
    assert search(api)["query_id"] != search(api)["query_id"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"query": "x", "limit": 3}, "limit"),
        ({}, "query"),
        ({"query": None}, "query"),
        ({"query": 7}, "query"),
        ({"query": ""}, "query"),
        ({"query": " \t\n\u00a0"}, "query"),
        ({"query": "x" * 100_000}, "query"),
        ({"query": "nul \u0000"}, "query"),
        ({"query": "x", "k": 0}, "k"),
        ({"query": "x", "k": -1}, "k"),
        ({"query": "x", "k": 10_000}, "k"),
        ({"query": "x", "k": "3"}, "k"),
        ({"query": "x", "k": 2.5}, "k"),
        ({"query": "x", "k": True}, "k"),
        ({"query": "x", "log": "no"}, "log"),
        ({"query": "x", "session_id": ""}, "session_id"),
        ({"query": "x", "filter": "colour = red"}, "filter"),
        ({"query": "x", "filter": {"colour": None}}, "filter.colour"),
        ({"query": "x", "filter": {"year": {"above": 3}}}, "filter.year"),
        ({"query": "x", "filter": {"must": {"colour": "red"}}}, "filter.must"),
        ({"query": "x", "filter": {"must": [{"key": "colour"}]}}, "filter.must"),
    ],
)
def test_a_wrong_value_is_refused_and_named(api: httpx.Client, body: dict[str, Any], field: str) -> None:
    answer = api.post("/v1/search", json=body)
    assert field in problem(answer, 422)
    assert next(error["name"] for error in answer.json()["errors"]).startswith(field)
    assert len(answer.content) < 2000, "the answer repeats what was sent"


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("client_id", "", "'' cannot be used: String should have at least 1 character"),
        ("client_id", "nul \u0000", "cannot be used: remove the NUL character"),
        ("limit", 3, "there is no such field: correct its name, or leave it out"),
    ],
)
def test_what_is_wrong_is_said_with_the_remedy(api: httpx.Client, field: str, value: Any, message: str) -> None:
    answer = api.post("/v1/search", json={"query": "x", field: value})
    (error,) = answer.json()["errors"]
    assert error["name"] == field
    assert error["message"].endswith(message)


@pytest.mark.parametrize(
    ("path", "encoding", "status"),
    [
        ("/v1/search", "gzip", 415),
        ("/v1/documents", "gzip", 415),
        ("/v1/search", "br", 415),
        ("/v1/search", "identity", 200),
        ("/v1/search", "", 200),
    ],
)
def test_a_compressed_body_is_refused_by_its_header(api: httpx.Client, path: str, encoding: str, status: int) -> None:
    answer = api.post(path, content=b'{"query": "red"}', headers=JSON | {"Content-Encoding": encoding})
    assert answer.status_code == status, answer.text
    if status == 415:
        assert "Content-Encoding" in problem(answer, 415)
        assert answer.headers["accept-encoding"] == "identity"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"query=red",
        b'{"query": "red"',
        b'["red"]',
        b'"red"',
        b"null",
        b'{"query": "red", "k": NaN}',
        b'{"query": "red", "k": Infinity}',
        b'{"query": "red", "k": -Infinity}',
        b'{"query": "red", "k": 1e999}',
        b'{"query": "red", "filter": {"year": {"gt": NaN}}}',
        b'{"query": "r\xe9d"}',
        b'{"query": "red \\ud800"}',
        b'{"query": "red \\udc00"}',
        b'{"query": ' + b"[" * 100_000,
        b'{"query": ' + b"[" * 1000 + b"]" * 1000 + b"}",
        b'{"query": "red", "filter": {"year": ' + b"[" * 1000 + b"]" * 1000 + b"}}",
    ],
    ids=lambda body: body[:40].decode(errors="backslashreplace"),
)
def test_a_body_that_is_no_object_in_sound_json_is_refused(api: httpx.Client, body: bytes) -> None:
    assert problem(api.post("/v1/search", content=body, headers=JSON), 422)


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("application/json", 200),
        ("application/JSON; charset=utf-8", 200),
        ("application/vnd.api+json", 200),
        ("application/x-ndjson", 422),
        ("application/jsonl", 422),
        ("text/json", 422),
        ("text/plain; a=json", 422),
    ],
)
def test_a_body_is_told_by_its_media_type(api: httpx.Client, kind: str, status: int) -> None:
    answer = api.post("/v1/search", content=b'{"query": "red"}', headers={"Content-Type": kind})
    assert answer.status_code == status, answer.text


@pytest.mark.parametrize("path", ["/v1/search", "/v1/documents"])
def test_a_client_that_goes_away_in_the_middle_of_its_body_is_no_error(loop: ClickLoop, path: str) -> None:
    received = iter([{"type": "http.request", "body": b'{"qu', "more_body": True}, {"type": "http.disconnect"}])

    async def receive() -> dict[str, Any]:
        return next(received)

    async def send(_message: Any) -> None:
        pass

    headers = [(b"authorization", f"Bearer {loop.keys.create('admin')[1]}".encode())]
    scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": headers}
    asyncio.run(create_app(loop)(scope, receive, send))
    assert next(received, None) is None


def test_a_body_that_is_too_large_is_refused(api: httpx.Client) -> None:
    assert problem(api.post("/v1/search", content=b"x" * TOO_LARGE, headers=JSON), 413)


def test_a_body_that_is_too_large_is_refused_when_it_does_not_tell_its_length(api: httpx.Client) -> None:
    def parts() -> Iterator[bytes]:
        yield b'{"query": "'
        for _ in range(TOO_LARGE // 65536):
            yield b"x" * 65536
        yield b'"}'

    assert problem(api.post("/v1/search", content=parts(), headers=JSON), 413)


def test_after_bad_requests_the_service_still_answers(api: httpx.Client) -> None:
    for body in (b"{", b"x" * TOO_LARGE):
        api.post("/v1/search", content=body, headers=JSON)
    assert search(api)["hits"]


def test_before_the_first_build_a_search_is_told_to_come_again(
    tmp_path: Path, settings_for: Callable[[Path], Settings], serving: Callable[..., AbstractContextManager[str]]
) -> None:
    loop = ClickLoop(settings_for(tmp_path / "data"))
    headers = {"Authorization": f"Bearer {loop.keys.create('search')[1]}"}
    with serving(create_app(loop), lifespan="off") as url, httpx.Client(base_url=url, headers=headers) as client:
        for answer in (client.post("/v1/search", json={"query": "red"}), client.get("/ready")):
            assert "first" in problem(answer, 503)
            assert int(answer.headers["retry-after"]) > 0
        assert client.get("/health").status_code == 200
    loop.close()


def test_unknown_paths_and_methods_are_problems_too(api: httpx.Client) -> None:
    problem(api.get("/v1/nothing"), 404)
    answer = api.get("/v1/search")
    problem(answer, 405)
    assert answer.headers["allow"] == "POST"


def test_a_request_needs_a_valid_key(address: str, loop: ClickLoop) -> None:
    key_id, secret = loop.keys.create("search")
    body = {"query": "red"}
    with httpx.Client(base_url=address) as client:
        for headers in (
            {},
            {"Authorization": "Bearer"},
            {"Authorization": "Bearer cl_search_guessed"},
            {"Authorization": f"Basic {secret}"},
            {"Authorization": secret},
        ):
            answer = client.post("/v1/search", json=body, headers=headers)
            problem(answer, 401)
            assert answer.headers["www-authenticate"].startswith("Bearer")
        sent = {"Authorization": f"Bearer {secret}"}
        assert client.post("/v1/search", json=body, headers=sent).status_code == 200
        loop.keys.revoke(key_id)
        problem(client.post("/v1/search", json=body, headers=sent), 401)


def test_a_key_may_do_what_its_role_and_the_lower_ones_may(address: str, loop: ClickLoop) -> None:
    allowed = {}
    with httpx.Client(base_url=address) as client:
        for role in ("search", "write", "admin"):
            sent = {"Authorization": f"Bearer {loop.keys.create(role)[1]}"}
            answers = [
                client.post("/v1/search", json={"query": "red", "log": False}, headers=sent),
                client.get("/v1/documents/red-1", headers=sent),
                client.get("/v1/runs", headers=sent),
            ]
            allowed[role] = [answer.status_code for answer in answers]
            for answer in answers:
                if answer.status_code != 200:
                    assert role in problem(answer, 403)
    assert allowed == {"search": [200, 403, 403], "write": [200, 200, 403], "admin": [200, 200, 200]}


def test_a_wrong_key_learns_nothing_about_the_body(address: str) -> None:
    answer = httpx.post(f"{address}/v1/search", content=json.dumps({"misspelled": 1}), headers=JSON)
    assert "misspelled" not in problem(answer, 401)
