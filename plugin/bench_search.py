"""`clickloop bench search`: the real service over HTTP beside its floor, an empty route and its peers.

All take turns in short rounds, so that what else the machine does hits them alike; ratios are medians over the rounds.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import orjson

from ..retriever.errors import ClickLoopError
from ..retriever.model import find_model
from ..retriever.owner import await_switch
from ..retriever.types import Document
from .bench_peers import PEERS, SLOW, Peer, peers_python
from .cache import cached, index_key, made_once
from .collection import Collection
from .ingest import index
from .load import THREADS, Asked, Clients, free_port, get, percentile, post, resident, served
from .loop import ClickLoop
from .settings import Settings, own_settings

KEY = "the-key-of-a-benchmark"
ROUNDS = 12
CLIENTS = 8
EACH = {1: 80, CLIENTS: 160}  # searches a round, by number of clients
SLOWER = 4  # times fewer searches of what is slow
POOL = 1000  # queries that are repeated, drawn by 1/rank
WARM = 20  # searches before anything is measured
ROUNDING = 1e-5  # of a score
COMPARED = 500  # queries whose answers are compared with exact search
SETTINGS: dict[str, Any] = {"payload_indexes": {"part": "integer"}, "schedule": {"enabled": False}}
FLOOR, EMPTY = "floor: encoder and index alone", "an empty route"
AFTER = "an empty route after a search"  # which leaves nothing of it in the processor's caches
Texts = Sequence[str]


@dataclass(slots=True)
class Row:
    """One way to search, asked once a round; `than` is the row that its ratios compare it with."""

    ask: Callable[[Texts], Asked]
    clients: int
    than: str = ""
    slow: bool = False
    rounds: list[Asked] = field(default_factory=list)

    @property
    def searches(self) -> int:
        """In a round."""
        return EACH[self.clients] // (SLOWER if self.slow else 1)

    def p50(self, round: int) -> float:
        return percentile(self.rounds[round].each, 0.5)

    def rate(self, round: int) -> float:
        return len(self.rounds[round].each) / self.rounds[round].wall


@contextmanager
def service(
    prepared: Path, folder: Path, core: int | None = None, **variables: str
) -> Iterator[tuple[int, "subprocess.Popen[bytes]"]]:
    """`clickloop serve` on a copy of the prepared data folder, on one core where it is given: its port and process."""
    shutil.copytree(prepared, folder)
    port = free_port()
    command = [sys.executable, "-m", "clickloop.plugin.cli", "serve", "--port", str(port), "--data-dir", str(folder)]
    given = {
        "CLICKLOOP_ADMIN_KEY": KEY,
        "CLICKLOOP_SCHEDULE__ENABLED": "false",
        "CLICKLOOP_PAYLOAD_INDEXES": orjson.dumps(SETTINGS["payload_indexes"]).decode(),
    }
    with served(command, port, get("/ready"), folder / "log", core, **(given | variables)) as process:
        yield port, process


def prepare(collection: Collection, say: Callable[[str], None]) -> Path:
    """A data folder with the documents, each in one of ten parts, so that a filter keeps a tenth; kept between runs."""
    documents = [
        Document(document.id, document.title, document.text, {**document.payload, "part": number % 10})
        for number, document in enumerate(collection.documents)
    ]

    def make(folder: Path) -> None:
        loop = ClickLoop(own_settings(data_dir=folder, **SETTINGS))
        index(loop, loop.documents.put(documents), lambda step, share, _note: say(f"{step} {share:.0%}"))
        loop.close()

    key = index_key(documents, own_settings(data_dir=Path("unused"), **SETTINGS))
    return made_once(cached("bench", key), make)


def _quantised(prepared: Path) -> Path:
    """The same folder after `clickloop quantise`, whatever it finds; kept between runs."""

    def make(folder: Path) -> None:
        shutil.copytree(prepared, folder)
        loop = ClickLoop(own_settings(data_dir=folder, **SETTINGS))
        switch = loop.quantiser().run(1.0, lambda _step, _share: None).switch
        assert switch is not None
        await_switch(loop.releases, switch, loop.make_owner)
        loop.close()

    return made_once(prepared.with_name(f"{prepared.name}-quantised"), make)


class _Floor:
    """Encoder and index alone, in a process of their own with its own copy of the data."""

    def __init__(self, prepared: Path, folder: Path) -> None:
        shutil.copytree(prepared, folder)
        environment = {name: value for name, value in os.environ.items() if name not in THREADS}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "clickloop.plugin.floor", str(folder)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def ask(self, texts: Texts, filter: Mapping[str, Any] | None = None) -> Asked:
        each = self._order({"queries": texts, "filter": filter})
        return Asked(each, sum(each))

    def exact(self, texts: Texts) -> list[list[float]]:
        """The scores of the ten nearest documents of each."""
        return list(self._order({"exact": texts}))

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()

    def _order(self, order: Mapping[str, Any]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(orjson.dumps(order) + b"\n")
        self._process.stdin.flush()
        return orjson.loads(self._process.stdout.readline())


class _Service:
    """The service under measure, asked through the connections of one client and of many."""

    def __init__(self, port: int) -> None:
        self._clients = {clients: Clients(port, clients) for clients in (1, CLIENTS)}

    def ways(self) -> dict[str, Row]:
        """Every way in which the benchmark searches, with the rows that its ratios compare it with."""
        return {
            "1 client": Row(self._search(1), 1),
            "1 client, log off": Row(self._search(1, log=False), 1, than="1 client"),
            "1 client, k 100": Row(self._search(1, k=100), 1, than="1 client"),
            "1 client, filter (1 in 10)": Row(self._search(1, filter={"part": 3}), 1, than="1 client"),
            f"{CLIENTS} clients": Row(self._search(CLIENTS), CLIENTS),
            f"{CLIENTS} clients, log off": Row(self._search(CLIENTS, log=False), CLIENTS, than=f"{CLIENTS} clients"),
        }

    def repeated(self) -> dict[str, Row]:
        """Searches for queries that come again."""
        return {
            "Zipf, 1 client": Row(self._search(1), 1),
            f"Zipf, {CLIENTS} clients": Row(self._search(CLIENTS), CLIENTS),
        }

    def warm(self) -> dict[str, Row]:
        """The same where every query has come before."""
        return {
            "Zipf, warm, 1 client": Row(self._search(1), 1, than="Zipf, 1 client"),
            f"Zipf, warm, {CLIENTS} clients": Row(self._search(CLIENTS), CLIENTS, than=f"Zipf, {CLIENTS} clients"),
        }

    def quantised(self) -> dict[str, Row]:
        """Of a service whose queries are quantised."""
        ways = {"1 client": 1, f"{CLIENTS} clients": CLIENTS}
        return {f"{name}, quantised": Row(self._search(count), count, than=name) for name, count in ways.items()}

    def empty_route(self, texts: Texts) -> Asked:
        return self._clients[1].ask([get("/health")] * len(texts))

    def after_search(self, texts: Texts) -> Asked:
        """The empty route, with a search before each request for it."""
        searches = (post("/v1/search", {"query": text}, KEY) for text in texts)
        asked = self._clients[1].ask([request for search in searches for request in (search, get("/health"))])
        each = asked.each[1::2]
        return Asked(each, sum(each))

    def found(self, texts: Texts) -> list[list[float]]:
        """The scores of the ten results of each."""
        scores: list[list[float]] = [[] for _ in texts]

        def take(number: int, body: bytes) -> None:
            scores[number] = [hit["score"] for hit in orjson.loads(body)["hits"]]

        self._clients[1].ask([post("/v1/search", {"query": text, "log": False}, KEY) for text in texts], take)
        return scores

    def _search(self, clients: int, **body: Any) -> Callable[[Texts], Asked]:
        def ask(texts: Texts) -> Asked:
            requests = [
                post("/v1/search", {"query": text, "client_id": f"c{number}", **body}, KEY)
                for number, text in enumerate(texts)
            ]
            return self._clients[clients].ask(requests)

        return ask


def measured(
    collection: Collection, corpus: Path | None, python: Path | None, say: Callable[[str], None]
) -> tuple[dict[str, Row], dict[str, str]]:
    """The measured rows, and what was found beside them. Raises ClickLoopError for too few questions."""
    texts = sorted({question.text for question in collection.questions})
    Random(0).shuffle(texts)
    size = min(POOL, len(texts) // 5)
    cold, known, distinct = texts[:size], texts[size : 2 * size], texts[2 * size :]
    needed = _round(() if corpus is None or peers_python(python) is None else PEERS)
    if len(distinct) < needed:
        enough = -(-needed * 5 // 3)  # two fifths are the pools
        raise ClickLoopError(f"search: {len(texts)} different questions are too few for a round; {enough} are enough")
    prepared = prepare(collection, say)
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        port, process = stack.enter_context(service(prepared, scratch / "served"))
        small, _ = stack.enter_context(service(_quantised(prepared), scratch / "quantised"))
        ours = _Service(port)
        floor = _Floor(prepared, scratch / "floor")
        stack.callback(floor.close)
        fresh = {**ours.ways(), **_Service(small).quantised()}
        fresh[FLOOR] = Row(floor.ask, 1, than="1 client")
        fresh[EMPTY] = Row(ours.empty_route, 1)
        fresh[AFTER] = Row(ours.after_search, 1)
        repeated, warm = ours.repeated(), ours.warm()
        for peer, slow in _peers(stack, corpus, python, say):
            for clients in (1, CLIENTS):
                name = f"{clients} client{'s' if clients > 1 else ''}"
                ask = _asking(peer, clients)
                fresh[f"{peer.name}, {name}"] = Row(ask, clients, name, slow)
                if not slow:
                    repeated[f"{peer.name}, Zipf, {name}"] = Row(ask, clients, f"Zipf, {name}")
        for row in warm.values():
            row.ask(known)
        rounds = _measure(fresh, [(repeated, cold), (warm, known)], distinct, say)
        compared = distinct[:COMPARED]
        notes = {
            "rounds": str(rounds),
            "empty routes above the floor": f"{above_floor(fresh, EMPTY):.1f}",
            "the same in empty routes after a search": f"{above_floor(fresh, AFTER):.1f}",
            "recall@10 against exact search": f"{recall(ours.found(compared), floor.exact(compared)):.4f}",
            "memory of the service": f"{resident(process)} MiB",
        }
        return {**fresh, **repeated, **warm}, notes


def _round(peers: Iterable[str]) -> int:
    """How many distinct queries a round takes; known before any service runs."""
    unasked = _Service(0)
    rows = [*unasked.ways().values(), *unasked.quantised().values()]
    rows += [Row(unasked.empty_route, 1)] * 3  # that, the same after a search, and the floor
    rows += [Row(unasked.empty_route, clients, slow=name in SLOW) for name in peers for clients in (1, CLIENTS)]
    return sum(row.searches for row in rows)


def _asking(peer: Peer, clients: int) -> Callable[[Texts], Asked]:
    asking = Clients(peer.port, clients)
    return lambda texts: asking.ask([peer.ask(text) for text in texts])


def _peers(
    stack: ExitStack, corpus: Path | None, python: Path | None, say: Callable[[str], None]
) -> Iterator[tuple[Peer, bool]]:
    """Those whose packages are there, and whether they are slow; an index that a peer makes is kept between runs."""
    interpreter = peers_python(python)
    if interpreter is None or corpus is None:
        return
    model = find_model(Settings.model_fields["model"].default)
    for name, start in PEERS.items():
        say(f"{name} starts, and indexes the documents the first time")
        key = f"{name}-{corpus.parent.name}-{corpus.stat().st_size}"
        yield stack.enter_context(start(interpreter, model, corpus, cached("bench", key))), name in SLOW


def _measure(
    fresh: Mapping[str, Row],
    drawn: Sequence[tuple[Mapping[str, Row], Texts]],
    distinct: Texts,
    say: Callable[[str], None],
) -> int:
    """Asks every row once a round, in an order that changes, because each begins with what the one before left in the
    processor's caches; also those with queries that are drawn by 1/rank from a pool. Returns how many rounds the
    distinct queries were enough for. No service gets a query of `distinct` twice.
    """
    random = Random(1)
    for row in fresh.values():
        row.ask(drawn[0][1][:WARM])
    following = iter(distinct)
    rounds = min(ROUNDS, len(distinct) // sum(row.searches for row in fresh.values()))
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}")
        for row in random.sample(list(fresh.values()), len(fresh)):
            row.rounds.append(row.ask(list(islice(following, row.searches))))
        for rows, pool in drawn:
            weights = [1 / (rank + 1) for rank in range(len(pool))]
            for row in random.sample(list(rows.values()), len(rows)):
                row.rounds.append(row.ask(random.choices(pool, weights, k=row.searches)))
    return rounds


def table_of(rows: Mapping[str, Row]) -> dict[str, dict[str, str]]:
    """Milliseconds and searches a second over all rounds; the ratios, to the row that is named, are medians."""
    table = {}
    for name, row in rows.items():
        each = [seconds for asked in row.rounds for seconds in asked.each]
        rates = len(each) / sum(asked.wall for asked in row.rounds)
        cell = {f"p{share:.0%}".rstrip("%"): f"{percentile(each, share):.2f}" for share in (0.5, 0.95, 0.99)}
        table[name] = {**cell, "a second": f"{rates:.0f}", "× p50": "", "× a second": ""}
        if row.than:
            rounds, than = range(len(row.rounds)), rows[row.than]
            table[name]["× p50"] = f"{np.median([row.p50(i) / than.p50(i) for i in rounds]):.2f}"
            table[name]["× a second"] = f"{np.median([row.rate(i) / than.rate(i) for i in rounds]):.2f}"
    return table


def above_floor(rows: Mapping[str, Row], counted_in: str) -> float:
    """By how many empty routes, of the row of that name, a search of one client takes longer than the floor: a median
    of rounds.
    """
    ours, floor, empty = rows["1 client"], rows[FLOOR], rows[counted_in]
    return float(np.median([(ours.p50(i) - floor.p50(i)) / empty.p50(i) for i in range(len(ours.rounds))]))


def recall(found: Sequence[Sequence[float]], exact: Sequence[Sequence[float]]) -> float:
    """Share of the results that score as well as the last one of exact search: equal documents are all right."""
    right = [sum(score >= best[-1] - ROUNDING for score in scores) for scores, best in zip(found, exact, strict=True)]
    return sum(right) / sum(map(len, exact))
