"""Kills the service at random moments of promotions and rollbacks, and looks at what is left.

    python tests/kill_promotions.py clickloop-demo --times 100

works on a copy of a demo's data folder, which holds two builds. While one process writes, deletes and searches over
HTTP, the service is asked to switch to the other build and gets a SIGKILL after a random time. After each restart there
must be one live build, every acknowledged document found or gone as told, and no index left that no build knows.
"""

import argparse
import http.client
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

from clickloop.plugin.demo import Api
from clickloop.plugin.loop import ClickLoop
from clickloop.plugin.settings import Schedule, Settings
from clickloop.retriever.ledger import verify
from clickloop.retriever.schema import live, switches

KEY = "a-key-for-the-killed"
LONGEST_SECONDS = 1.5  # after the wish


@contextmanager
def service(folder: Path) -> Iterator[tuple[subprocess.Popen[str], Api]]:
    variables = os.environ | {"CLICKLOOP_ADMIN_KEY": KEY, "CLICKLOOP_SCHEDULE__ENABLED": "false"}
    command = [sys.executable, "-m", "clickloop.plugin.cli", "serve", "--port", "0", "--data-dir", str(folder)]
    with subprocess.Popen(command, env=variables, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        address = next(line for line in server.stderr if line.startswith("clickloop: http")).split()[1]
        drain = threading.Thread(target=server.stderr.read)
        drain.start()
        api = Api(int(address.rsplit(":", 1)[1]), KEY)
        while not ready(api):
            time.sleep(0.02)
        yield server, api
        server.kill()
        server.wait()
        drain.join()


def ready(api: Api) -> bool:
    try:
        api.call("GET", "/ready")
    except Exception:
        return False
    return True


def use(api: Api, chance: random.Random, written: dict[str, bool], releases: set[str]) -> None:
    """Until the service is gone. `written` holds what was acknowledged; an unanswered wish may have happened or not."""
    while True:
        id_ = f"killed/{chance.randrange(60)}"
        exists = chance.random() < 0.7
        written.pop(id_, None)
        try:
            if exists:
                api.call("POST", "/v1/documents", {"documents": [{"id": id_, "text": f"text of {id_}"}]})
            else:
                api.call("DELETE", f"/v1/documents/{id_}")
            written[id_] = exists
            releases.add(api.call("POST", "/v1/search", {"query": f"text of {id_}"})["release"])
        except (OSError, http.client.HTTPException):
            return


def check(folder: Path, written: dict[str, bool], known: set[str], seen: set[str]) -> list[str]:
    """What is wrong with what is left."""
    wrong = []
    loop = ClickLoop(Settings(data_dir=folder, schedule=Schedule(enabled=False)))
    with loop:
        loop.wait_for(loop.documents.revision())
        while loop.releases.wanted() is not None:
            time.sleep(0.02)
        build = loop.live.current()
        pointer = loop.releases.live()
        assert build is not None
        with loop.database.read() as connection:
            if connection.scalar(select(func.count()).select_from(live)) != 1:
                wrong.append("not one live build")
            open_wishes = connection.scalar(select(func.count()).where(switches.c.state == "requested"))
        if open_wishes:
            wrong.append(f"{open_wishes} wishes without an answer")
        if pointer is None or pointer.id != build.build.id:
            wrong.append("the pointer and the opened build differ")
        if build.index.count() != loop.documents.count():
            wrong.append(f"{build.index.count()} documents in the index, {loop.documents.count()} stored")
        found = {hit.id for hit in loop.search("text of killed", k=1000, log=False)}
        wrong += [f"{id_}: {exists} was acknowledged" for id_, exists in written.items() if (id_ in found) != exists]
        if not seen <= known:
            wrong.append(f"answers of {seen - known}")
        if set(loop.store.names()) != {build.id for build in loop.releases.builds()}:
            wrong.append(f"indexes {loop.store.names()}, builds {[build.id for build in loop.releases.builds()]}")
        wrong += verify(loop.database)
    return wrong


def main(source: Path, times: int, seed: int) -> int:
    folder = Path(tempfile.mkdtemp()) / "data"
    shutil.copytree(source, folder)
    chance, failed, states = random.Random(seed), 0, dict.fromkeys(("done", "open"), 0)
    known = set(os.listdir(folder / "releases"))
    for number in range(times):
        written: dict[str, bool] = {}
        seen: set[str] = set()
        with service(folder) as (server, api):
            releases: list[dict[str, Any]] = api.call("GET", "/v1/releases")["releases"]
            other = next(r["id"] for r in releases if r["can_roll_back_to"] and not r["live"])
            user = threading.Thread(target=use, args=(api, random.Random(number), written, seen))
            user.start()
            time.sleep(0.3)
            api.call("POST", f"/v1/releases/{other}/activate")
            time.sleep(chance.random() * LONGEST_SECONDS)
            server.send_signal(signal.SIGKILL)
            user.join()
        settings = Settings(data_dir=folder, schedule=Schedule(enabled=False))
        state = "open" if ClickLoop(settings).releases.wanted() is not None else "done"
        states[state] += 1
        wrong = check(folder, written, known, seen)
        failed += bool(wrong)
        line = {"kill": number + 1, "switch was": state, "acknowledged": len(written), "wrong": wrong}
        print(json.dumps(line), flush=True)
    print(f"{times} kills, {states['open']} before the switch and {states['done']} after it; {failed} went wrong")
    shutil.rmtree(folder.parent)
    return int(failed > 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("--times", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    sys.exit(main(given.source, given.times, given.seed))
