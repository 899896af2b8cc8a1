"""How long the service's event loop stalls while it is searched without pause, through switches and a nightly run.

    python tests/loop_stalls.py clickloop-demo

works on a copy of a demo's data folder. Two processes search and write over HTTP; the longest and the 99.9th percentile
of the delays of a 5 ms timer on the event loop are printed for each phase. Not a test: other load counts too.
"""

import asyncio
import http.client
import json
import multiprocessing
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import uvicorn

from clickloop.plugin.app import create_app
from clickloop.plugin.loop import ClickLoop
from clickloop.plugin.serve import shorten_collections
from clickloop.plugin.settings import Schedule, Settings
from clickloop.trainer.recipe import Mining

TICK_SECONDS = 0.005


def client(port: int, key: str, writes: bool, mixed: "multiprocessing.Queue[str]") -> None:
    """Searches, or writes, until it is ended; reports every answer that is an error."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    number = 0
    while True:
        number += 1
        path, body = "/v1/search", {"query": f"question number {number} about lists", "log": False}
        if writes:
            path, body = "/v1/documents", {"documents": [{"id": f"new/{number % 50}", "text": f"text {number}"}]}
        time.sleep(0.05 if writes else 0.02)  # without a pause the night, which yields to searches, would take an hour
        connection.request("POST", path, json.dumps(body), headers)
        answer = connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            mixed.put(f"{answer.status}: {content[:200]!r}")


def main(source: Path) -> None:  # noqa: PLR0915
    folder = Path(tempfile.mkdtemp()) / "data"
    shutil.copytree(source, folder)
    settings = Settings(data_dir=folder, schedule=Schedule(enabled=False), mining=Mining(min_pairs=10))
    loop = ClickLoop(settings)
    key = loop.keys.create("admin")[1]
    delays: list[tuple[float, float]] = []

    async def watch() -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(TICK_SECONDS)
            ended = time.perf_counter()
            delays.append((ended, ended - began - TICK_SECONDS))

    async def serve() -> None:
        task = asyncio.create_task(watch())
        await server.serve()
        task.cancel()

    server = uvicorn.Server(uvicorn.Config(create_app(loop), port=0, log_config=None, lifespan="on"))
    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    loop.start(nights=False)
    loop.wait_until_ready()
    shorten_collections()
    until(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    context = multiprocessing.get_context("spawn")
    errors: multiprocessing.Queue[str] = context.Queue()
    clients = [
        context.Process(target=client, args=(port, key, writes, errors), daemon=True) for writes in (False, True)
    ]
    for process in clients:
        process.start()
    time.sleep(3)
    phases: list[tuple[str, float, float]] = []

    def phase(name: str, work: Callable[[], None]) -> None:
        began = time.perf_counter()
        work()
        phases.append((name, began, time.perf_counter()))

    def switch(release: str) -> None:
        number = loop.releases.request_switch(loop.releases.newest_build(release).id, "rollback", "stalls")
        until(lambda: loop.releases.switch(number).state != "requested")
        assert loop.releases.switch(number).state == "done", loop.releases.switch(number)

    live = loop.releases.live()
    assert live is not None
    present, former = live.release_id, loop.releases.former()
    phase("searching alone", lambda: time.sleep(10))
    phase("rollback", lambda: switch(former))
    phase("and forward again", lambda: switch(present))
    switch(former)  # whose lessons are still ahead of it, so that the night promotes
    phase("a nightly run", lambda: night(port, key))
    for process in clients:
        process.terminate()
    server.should_exit = True
    thread.join()
    for name, began, ended in phases:
        found = np.array([delay for at, delay in delays if began <= at <= ended + 1]) * 1000
        print(
            f"{name}: {ended - began:.1f} s, delay max {found.max():.0f} ms, p99.9 {np.percentile(found, 99.9):.0f} ms"
        )
    print(f"errors: {errors.qsize()}")
    shutil.rmtree(folder.parent)


def night(port: int, key: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {"Authorization": f"Bearer {key}"}
    state = ""
    connection.request("POST", "/v1/runs", headers=headers)
    run = json.loads(connection.getresponse().read())["id"]
    while state != "finished":
        time.sleep(1)
        connection.request("GET", f"/v1/runs/{run}", headers=headers)
        answer = json.loads(connection.getresponse().read())
        state = answer["state"]
    print(f"the run ended: {answer['decision']}")


def until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.02)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
