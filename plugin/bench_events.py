"""`clickloop bench events`: how many events the real service acknowledges a second, and whether it keeps them."""

import sqlite3
import tempfile
import uuid
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from ..retriever.errors import ClickLoopError
from .bench_search import KEY, prepare, service
from .collection import Collection
from .load import Asked, Clients, percentile, post

BATCH = 100  # events a request
REQUESTS = 200  # a round
ROUNDS = 5
SENDERS = (1, 4)  # connections
KILLED_REQUESTS = 300


def bench_events(collection: Collection, say: Callable[[str], None]) -> dict[str, dict[str, Any]]:
    """Events a second and milliseconds a batch, by durability and number of connections."""
    prepared = prepare(collection, say)
    rows: dict[str, dict[str, Any]] = {}
    for durability in ("process", "power"):
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "served"
            with service(prepared, folder, core=0, CLICKLOOP_DURABILITY=durability) as (port, process):
                for senders in SENDERS:
                    say(f"durability {durability}, {senders} connections")
                    client = Clients(port, senders)
                    asked = [client.ask(_batches(REQUESTS)) for _ in range(ROUNDS + 1)][1:]
                    rows[f'durability = "{durability}", {_many(senders)}'] = _cells(asked)
                acknowledged = _until_killed(Clients(port, SENDERS[-1]), process.kill)
            kept = _stored(folder)
            lost = sum(name not in kept for name in acknowledged)
            rows[f'durability = "{durability}", kill -9'] = {
                "events a second": f"{len(acknowledged)} sent, {lost} lost"
            }
    return rows


def _many(senders: int) -> str:
    return f"{senders} connection{'s' if senders > 1 else ''}"


def _batches(requests: int) -> list[bytes]:
    return [_batch()[1] for _ in range(requests)]


def _batch() -> tuple[list[str], bytes]:
    """The ids of a hundred new events, and the request that sends them."""
    ids = [uuid.uuid4().hex for _ in range(BATCH)]
    events = [
        {"query_id": id_, "action": "click", "document_id": f"d{number}", "rank": 1, "event_id": id_, "client_id": "c"}
        for number, id_ in enumerate(ids)
    ]
    return ids, post("/v1/events", {"events": events}, KEY)


def _cells(asked: list[Asked]) -> dict[str, str]:
    each = [seconds for one in asked for seconds in one.each]
    rate = BATCH * len(each) / sum(one.wall for one in asked)
    return {
        "events a second": f"{rate:,.0f}",
        **{f"p{share:.0%}".rstrip("%"): f"{percentile(each, share):.2f}" for share in (0.5, 0.95, 0.99)},
    }


def _until_killed(client: Clients, kill: Callable[[], None]) -> list[str]:
    """The ids of all events that were acknowledged before the service was killed in the middle of others."""
    sent = [_batch() for _ in range(KILLED_REQUESTS)]
    acknowledged: list[str] = []
    answers = 0

    def take(number: int, _body: bytes) -> None:
        nonlocal answers
        acknowledged.extend(sent[number][0])
        answers += 1
        if answers == KILLED_REQUESTS // 2:
            kill()

    with suppress(ClickLoopError, OSError):  # the connections break
        client.ask([request for _, request in sent], take)
    return acknowledged


def _stored(folder: Path) -> set[str]:
    with closing(sqlite3.connect(folder / "clickloop.db")) as connection:
        return {id_ for (id_,) in connection.execute("SELECT event_id FROM events")}
