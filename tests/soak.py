"""Mixed load on a real service: searches, events, writes, deletes, a night, a promotion, compactions, a rollback.

    python tests/soak.py --minutes 30

Prints search latencies by phase (alone, beside a nightly run), the service's memory, and what went wrong: an error as
answer, an acknowledged write that is not as told, an index that no build knows. Exit status 1 when something did.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from clickloop.plugin.demo import Api, demo_collection
from clickloop.plugin.loop import ClickLoop
from clickloop.plugin.settings import Schedule, Settings
from clickloop.retriever.building import make_index
from clickloop.retriever.encoder import load_model
from clickloop.retriever.ledger import verify
from clickloop.retriever.pointer import set_build
from clickloop.retriever.schema import switches

KEY = "a-key-for-the-soak"
COMPACT_AFTER = 1000
MAX_PAIRS = 2000  # all that half of an hour teaches would be trained on for longer than the soak lasts
WRITTEN = 400  # ids that are written and deleted
PAUSE_SECONDS = 0.02  # between two searches of a client
RIGHT = ("done", "is live now")  # a compaction that a promotion overtook is of a release that is live no more
LAST_SECONDS = 60  # alone after the last switch, at least


class Load:
    """What the clients do and see, until `done`."""

    def __init__(self, api: Api, questions: list[tuple[str, frozenset[str]]]) -> None:
        self.api = api
        self.questions = questions
        self.done = threading.Event()
        self.phase = "warming up"
        self.latencies: dict[str, list[float]] = {}
        self.errors: list[str] = []
        self.written: dict[str, bool] = {}
        self.counts = {"searches": 0, "events": 0, "writes": 0, "deletes": 0}

    def repeat(self, act: Callable[[random.Random, int], None], pause: float, seed: int) -> threading.Thread:
        def run() -> None:
            chance, number = random.Random(seed), 0
            while not self.done.wait(pause):
                number += 1
                try:
                    act(chance, number)
                except Exception as error:
                    self.errors.append(f"{self.phase}: {type(error).__name__}: {error}")

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def search(self, chance: random.Random, number: int) -> None:
        text, right = chance.choice(self.questions)
        person, began = f"{chance.randrange(10_000)}", time.perf_counter()
        found = self.api.call("POST", "/v1/search", {"query": f"{text} {number}", "k": 10, "client_id": person})
        self.latencies.setdefault(self.phase, []).append(1000 * (time.perf_counter() - began))
        self.counts["searches"] += 1
        clicks = [hit["id"] for hit in found["hits"] if hit["id"] in right]
        if clicks:
            events = [
                {"query_id": found["query_id"], "action": "click", "document_id": id_, "client_id": person}
                for id_ in clicks
            ]
            self.counts["events"] += self.api.call("POST", "/v1/events", {"events": events})["accepted"]

    def write(self, chance: random.Random, number: int) -> None:
        id_ = f"soak/{chance.randrange(WRITTEN)}"
        if chance.random() < 0.7:
            self.api.call("POST", "/v1/documents", {"documents": [{"id": id_, "text": f"soaked {id_}, {number}"}]})
            self.counts["writes"] += 1
            self.written[id_] = True
        else:
            self.api.call("DELETE", f"/v1/documents/{id_}")
            self.counts["deletes"] += 1
            self.written[id_] = False


def prepare(settings: Settings, documents: int) -> tuple[list[tuple[str, frozenset[str]]], str, str]:
    """A folder with documents of the demo, and a second release that is ready for a promotion; the questions, the first
    release and the second one's build.
    """
    collection = demo_collection()
    kept = collection.documents[:documents]
    ids = {document.id for document in kept}
    loop = ClickLoop(settings)
    owner = loop.make_owner()
    assert owner.acquire()
    owner.open()
    for start in range(0, len(kept), 500):
        loop.documents.put(kept[start : start + 500])
    owner.index_all(lambda _reached, _newest: None)
    owner.close()
    live = loop.releases.live()
    assert live is not None
    first = loop.releases.get(live.release_id)
    again = loop.releases.make(load_model(str(loop.releases.folder(first.id) / "model")), parent=first.id, lineage={})
    newest = loop.releases.vectors(first).newest()
    vectors = newest.vectors(slice(None))
    loop.releases.vectors(again).append(newest.keys, newest.revisions, vectors)
    build = loop.releases.add_build(again.id)
    batch = (newest.keys.tolist(), vectors, [{}] * len(vectors))
    make_index(loop.store, build.id, again.dimension, iter([batch]), lambda _done: None).close()
    with loop.database.write() as connection:
        set_build(connection, build.id, state="ready", revision=live.revision, optimized=live.revision)
    loop.close()
    return [(q.text, q.right) for q in collection.questions if q.right & ids], first.id, build.id


@contextmanager
def service(folder: Path) -> Iterator[tuple[int, Api]]:
    variables = os.environ | {
        "CLICKLOOP_ADMIN_KEY": KEY,
        "CLICKLOOP_SCHEDULE__ENABLED": "false",
        "CLICKLOOP_COMPACT_AFTER": str(COMPACT_AFTER),
        "CLICKLOOP_TRAINING__MAX_PAIRS": str(MAX_PAIRS),
    }
    command = [sys.executable, "-m", "clickloop.plugin.cli", "serve", "--port", "0", "--data-dir", str(folder)]
    with subprocess.Popen(command, env=variables, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        address = next(line for line in server.stderr if line.startswith("clickloop: http")).split()[1]
        drain = threading.Thread(target=server.stderr.read)
        drain.start()
        api = Api(int(address.rsplit(":", 1)[1]), KEY)
        try:
            until(lambda: ready(api), 120)
            yield server.pid, api
        finally:
            server.terminate()
            server.wait()
            drain.join()


def ready(api: Api) -> bool:
    try:
        api.call("GET", "/ready")
    except Exception:
        return False
    return True


def until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:.0f} s")
        time.sleep(0.2)


def memory(pid: int) -> float:
    """MiB that are the process's own."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) / 1024


def check(settings: Settings, load: Load) -> list[str]:
    """What is wrong with what is left."""
    wrong = []
    with ClickLoop(settings) as loop:
        loop.wait_for(loop.documents.revision())
        opened = loop.live.current()
        assert opened is not None
        if opened.index.count() != loop.documents.count():
            wrong.append(f"{opened.index.count()} documents in the index, {loop.documents.count()} stored")
        until(lambda: sorted(loop.store.names()) == sorted(build.id for build in loop.releases.builds()), 60)
        present = {stored.document.id for page in loop.documents.snapshot(loop.documents.revision()) for stored in page}
        wrong += [
            f"{id_}: {exists} was acknowledged" for id_, exists in load.written.items() if (id_ in present) != exists
        ]
        wrong += verify(loop.database)
    return wrong


def main(minutes: float, documents: int) -> int:
    folder = Path(tempfile.mkdtemp()) / "data"
    settings = Settings(data_dir=folder, schedule=Schedule(enabled=False))
    questions, first, second = prepare(settings, documents)
    watcher = ClickLoop(settings)
    seconds, report = 60 * minutes, dict[str, Any]()
    with service(folder) as (pid, api):
        load, began = Load(api, questions), time.monotonic()
        clients = [load.repeat(load.search, PAUSE_SECONDS, seed) for seed in range(2)]
        clients.append(load.repeat(load.write, 0.1, 9))

        def wait(share: float, phase: str, least: float = 0.0) -> None:
            load.phase = phase
            time.sleep(max(least, began + share * seconds - time.monotonic()))
            report[f"memory, MiB: {phase}"] = round(memory(pid))

        try:
            wait(0.2, "warming up")
            wait(0.3, "alone")
            load.phase = "a promotion"  # before the night, which removes what is ready and nobody waits for
            promotion = watcher.releases.request_switch(second, "promotion", "soak")
            until(lambda: watcher.releases.switch(promotion).state != "requested", 300)
            wait(0.5, "after the promotion")  # a night learns from answers of what is live
            load.phase = "a nightly run"
            run = api.call("POST", "/v1/runs")["id"]
            until(lambda: api.call("GET", f"/v1/runs/{run}")["state"] == "finished", max(3600.0, seconds))
            report["memory, MiB: after the night"] = round(memory(pid))
            report["night"] = api.call("GET", f"/v1/runs/{run}")["decision"]
            load.phase = "switches"
            until(lambda: any(one[0] == "compaction" for one in moved(watcher)), max(1200.0, seconds))
            api.call("POST", f"/v1/releases/{first}/activate")
            until(lambda: moved(watcher)[-1][0] == "rollback", 300)
            wait(1.0, "alone, later", LAST_SECONDS)
        finally:
            load.done.set()
            for client in clients:
                client.join()
        report["switches"] = [": ".join(one) for one in moved(watcher)]
    watcher.close()
    wrong = load.errors + check(settings, load) + [one for one in report["switches"] if not one.endswith(RIGHT)]
    for phase, taken in load.latencies.items():
        report[f"search ms, {phase}"] = {
            "n": len(taken),
            **{f"p{share}": round(float(np.percentile(taken, share)), 1) for share in (50, 99)},
        }
    report |= {"seconds": round(time.monotonic() - began), **load.counts, "wrong": wrong[:20]}
    print(json.dumps(report, indent=2))
    shutil.rmtree(folder.parent)
    return int(bool(wrong))


def moved(loop: ClickLoop) -> list[tuple[str, str]]:
    """Why the pointer was to be moved, and what became of it, the oldest first."""
    with loop.database.read() as connection:
        rows = connection.execute(switches.select().where(switches.c.state != "requested").order_by(switches.c.id))
        return [(row.reason, row.state if row.error is None else row.error) for row in rows]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--documents", type=int, default=2000)
    given = parser.parse_args()
    sys.exit(main(given.minutes, given.documents))
