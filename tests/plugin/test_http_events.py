import sqlite3
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import httpx
import pytest

from clickloop.plugin.loop import ClickLoop

CLICK = {"query_id": "q", "action": "click", "document_id": "red-1"}


def send(api: httpx.Client, *events: Any) -> dict[str, Any]:
    answer = api.post("/v1/events", json={"events": events})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def stored(loop: ClickLoop, query_id: str) -> list[dict[str, Any]]:
    """The events of a query as any other process sees them at this moment."""
    with closing(sqlite3.connect(loop.settings.data_dir / "clickloop.db")) as connection:
        connection.row_factory = sqlite3.Row
        rows = connection.execute("SELECT * FROM events WHERE query_id = ? ORDER BY seq", (query_id,))
        return [dict(row) for row in rows]


def test_acknowledged_events_are_in_the_database(api: httpx.Client, loop: ClickLoop) -> None:
    found = api.post("/v1/search", json={"query": "red list"}).json()
    click = {
        "query_id": found["query_id"],
        "action": "add_to_cart",
        "document_id": found["hits"][2]["id"],
        "rank": 3,
        "timestamp": 1_700_000_000,
        "event_id": "whole",
        "session_id": "s",
        "client_id": "c",
        "user_id": "u",
    }
    assert send(api, click) == {"accepted": 1, "duplicates": 0, "rejected": []}
    (row,) = stored(loop, found["query_id"])
    expected = {name: value for name, value in click.items() if name != "timestamp"}
    assert {name: row[name] for name in expected} == expected
    assert row["client_time"] == 1_700_000_000
    assert row["arrived_at"] > row["client_time"]
    assert row["query_known"] == 1


def test_an_event_of_an_unknown_query_is_accepted_and_marked(api: httpx.Client, loop: ClickLoop) -> None:
    assert send(api, {**CLICK, "query_id": "never asked"})["accepted"] == 1
    (row,) = stored(loop, "never asked")
    assert row["query_known"] == 0


def test_no_events_are_no_error(api: httpx.Client) -> None:
    assert send(api) == {"accepted": 0, "duplicates": 0, "rejected": []}


def test_the_same_event_id_counts_once_within_and_across_requests(api: httpx.Client, loop: ClickLoop) -> None:
    event = {**CLICK, "query_id": "twice", "event_id": "e1"}
    assert send(api, event, event) == {"accepted": 1, "duplicates": 1, "rejected": []}
    other = {**event, "document_id": "red-2"}
    assert send(api, other, {**event, "event_id": "e2"}) == {"accepted": 1, "duplicates": 1, "rejected": []}
    assert [(row["event_id"], row["document_id"]) for row in stored(loop, "twice")] == [
        ("e1", "red-1"),
        ("e2", "red-1"),
    ]


def test_without_an_event_id_the_same_content_counts_once(api: httpx.Client, loop: ClickLoop) -> None:
    event = {**CLICK, "query_id": "derived", "timestamp": "2026-01-31T10:00:00Z"}
    turned = dict(reversed(event.items()))
    later = {**event, "timestamp": "2026-01-31T10:00:01Z"}
    other = {**event, "document_id": "red-2"}
    assert send(api, event, turned, later, other) == {"accepted": 3, "duplicates": 1, "rejected": []}
    assert send(api, event)["duplicates"] == 1
    assert len(stored(loop, "derived")) == 3


def test_the_same_events_from_eight_threads_count_once(api: httpx.Client, loop: ClickLoop) -> None:
    events = [{**CLICK, "query_id": "race", "event_id": f"race {number}"} for number in range(50)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: send(api, *events), range(16)))
    assert sum(answer["accepted"] for answer in answers) == 50
    assert sum(answer["duplicates"] for answer in answers) == 15 * 50
    assert len(stored(loop, "race")) == 50


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (None, "event"),
        ("click", "event"),
        ({}, "query_id"),
        ({**CLICK, "query_id": 5}, "query_id"),
        ({**CLICK, "query_id": ""}, "query_id: '' cannot be used: String should have at least 1 character"),
        ({**CLICK, "action": ""}, "action"),
        ({**CLICK, "action": "click it"}, "action"),
        ({**CLICK, "document_id": "x" * 513}, "document_id"),
        ({**CLICK, "document_id": "nul \u0000"}, "document_id"),
        ({**CLICK, "rank": 0}, "rank: 0 cannot be used"),
        ({**CLICK, "rank": "1"}, "rank"),
        ({**CLICK, "position": 3}, "position: there is no such field: correct its name, or leave it out"),
        (
            {**CLICK, "timestamp": "yesterday"},
            "timestamp: 'yesterday' cannot be used: use seconds since 1970 or an ISO",
        ),
        ({**CLICK, "timestamp": "2026-02-30T00:00:00"}, "timestamp"),
        ({**CLICK, "timestamp": -1}, "timestamp: -1 cannot be used: use seconds since 1970 or an ISO 8601 text"),
        ({**CLICK, "timestamp": 1_700_000_000_000}, "timestamp"),
        ({**CLICK, "timestamp": True}, "timestamp"),
        ({**CLICK, "event_id": 7}, "event_id"),
    ],
)
def test_a_bad_event_is_rejected_with_its_place_and_the_others_are_kept(
    api: httpx.Client, bad: Any, reason: str
) -> None:
    before, after = ({**CLICK, "event_id": uuid.uuid4().hex} for _ in range(2))
    answer = send(api, before, bad, after)
    assert (answer["accepted"], answer["duplicates"]) == (2, 0)
    (rejected,) = answer["rejected"]
    assert rejected["index"] == 1
    assert reason in rejected["reason"]


@pytest.mark.parametrize(
    ("timestamp", "seconds"),
    [
        ("2026-01-31T10:00:00Z", 1769853600),
        ("2026-01-31T12:00:00+02:00", 1769853600),
        ("2026-01-31T12:00:00+0200", 1769853600),
        ("2026-01-31T10:00:00.250", 1769853600.25),
        ("2026-01-31 10:00:00", 1769853600),
        (1769853600, 1769853600),
        (1769853600.5, 1769853600.5),
        (None, None),
    ],
)
def test_a_time_is_iso_text_or_seconds_and_utc_without_a_zone(
    api: httpx.Client, loop: ClickLoop, timestamp: str | float | None, seconds: float | None
) -> None:
    query_id = f"at {timestamp!r}"
    assert send(api, {**CLICK, "query_id": query_id, "timestamp": timestamp})["accepted"] == 1
    assert [row["client_time"] for row in stored(loop, query_id)] == [seconds]


def test_ten_thousand_events_are_the_most_a_request_can_bring(api: httpx.Client, loop: ClickLoop) -> None:
    events = [{**CLICK, "query_id": "many", "event_id": f"many {number}"} for number in range(10_001)]
    answer = api.post("/v1/events", json={"events": events})
    assert answer.status_code == 422
    assert "events" in answer.json()["detail"]
    assert stored(loop, "many") == []
    assert send(api, *events[1:])["accepted"] == 10_000
    assert len(stored(loop, "many")) == 10_000


@pytest.mark.parametrize("body", [{}, {"events": {}}, {"events": None}, {"events": [], "wait": True}])
def test_a_body_without_a_list_of_events_is_refused(api: httpx.Client, body: dict[str, Any]) -> None:
    answer = api.post("/v1/events", json=body)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"


def test_events_are_refused_however_deep_they_are(api: httpx.Client) -> None:
    deep = b"[" * 1000 + b"]" * 1000

    def answer(events: bytes) -> httpx.Response:
        content = b'{"events": ' + events + b"}"
        return api.post("/v1/events", content=content, headers={"Content-Type": "application/json"})

    assert answer(b'{"events": ' + deep + b"}").status_code == 422
    (rejected,) = answer(deep).json()["rejected"]
    assert rejected["index"] == 0
