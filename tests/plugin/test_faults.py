"""Faults of the world: a full disk, a locked database, a Qdrant server that does not answer.

What was acknowledged stays, what cannot be done says so, and everything goes on when the fault has passed.
"""

import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from qdrant_client import QdrantClient
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
from qdrant_client.http.exceptions import UnexpectedResponse
from school import LessonSettings, one_night, until
from sqlalchemy import func, select

from clickloop.plugin.app import create_app
from clickloop.plugin.loop import ClickLoop
from clickloop.plugin.settings import Qdrant, Settings
from clickloop.retriever import database as database_module
from clickloop.retriever.edge import EdgeStore
from clickloop.retriever.errors import IndexFault, IndexLost, NoRoom, Unreachable
from clickloop.retriever.qdrant import QdrantStore, open_qdrant
from clickloop.retriever.releases import drop_half_made, new_id
from clickloop.retriever.schema import looks, searches
from clickloop.trainer.runs import Run

KEY = "a-key-for-this-test"
MIB = 1 << 20


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@contextmanager
def served(loop: ClickLoop, serving: Callable[..., AbstractContextManager[str]]) -> Iterator[httpx.Client]:
    with serving(create_app(loop)) as url:
        loop.wait_until_ready()
        headers = {"Authorization": f"Bearer {loop.keys.create('admin')[1]}"}
        with httpx.Client(base_url=url, headers=headers, timeout=60) as api:
            yield api


def put(api: httpx.Client, id_: str, text: str = "a list", wait: bool = False) -> httpx.Response:
    return api.post("/v1/documents", json={"documents": [{"id": id_, "text": text}], "wait": wait})


@pytest.fixture
def interrupted(judged: Path, tmp_path: Path, lesson_settings: LessonSettings) -> Settings:
    """A night goes on here with a candidate that has won and is to be built."""
    return lesson_settings(Path(shutil.copytree(judged, tmp_path / "data")))


def resumed(loop: ClickLoop, show: Callable[[str, float], None] = lambda _step, _share: None) -> Run:
    run = loop.runs.unfinished()
    assert run is not None
    return loop.run_night(run.id, show)


# The disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own with 400 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=400m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("no small disk can be mounted here (it needs root): a disk that is really full was not tested")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path, leave: int = 0) -> Path:
    """Takes the room of the disk but `leave` bytes, and returns the file to remove."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while (free := shutil.disk_usage(disk).free) > leave:
                file.write(bytes(min(MIB, free - leave)))
        except OSError:
            pass
    return ballast


def test_a_night_without_room_for_a_new_index_fails_before_it_builds(
    interrupted: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = ClickLoop(interrupted)
    names = loop.store.names()
    with monkeypatch.context() as patch:
        patch.setattr("clickloop.retriever.edge.shutil.disk_usage", lambda _path: Usage(100 * MIB, 80 * MIB, 20 * MIB))
        run = resumed(loop)
    assert run.outcome == "failed"
    (reason,) = run.reasons
    assert re.search(r"a new index of \d+ documents needs \d+ MiB of disk and 20 MiB are free", reason)
    assert "make room there, or move data_dir" in reason
    assert loop.store.names() == names
    assert {build.id for build in loop.releases.builds()} == set(names)
    loop.close()


def test_a_disk_that_fills_up_ends_the_making_of_an_index_and_kills_nobody(small_disk: Path) -> None:
    """In a process of its own: without care the engine dies of SIGBUS."""
    store = EdgeStore(small_disk / "builds", {})
    ballast = fill(small_disk, leave=70 * MIB)
    with pytest.raises(NoRoom, match="1,000,000 documents needs"):
        store.check_room(1_000_000, 384, like="")
    program = """
import sys, numpy as np
from pathlib import Path
from clickloop.retriever.edge import EdgeStore
from clickloop.retriever.errors import NoRoom
vectors = np.random.default_rng(0).normal(size=(512, 384)).astype(np.float32)
index = EdgeStore(Path(sys.argv[1]), {}).create("build", 384)
try:
    for start in range(1, 50_000, 512):
        index.upsert(list(range(start, start + 512)), vectors, [{}] * 512)
    index.finish()
except NoRoom as error:
    index.close()
    print(error)
"""
    command = [sys.executable, "-c", program, str(small_disk / "builds")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, "MiB are free" in ended.stdout) == (0, True), ended
    fill(small_disk)
    with pytest.raises(NoRoom, match="opening the index build"):
        store.open("build")
    ballast.unlink()
    store.open("build").close()


def test_on_a_full_disk_writes_are_refused_searches_answered_and_all_goes_on_when_there_is_room(
    data_dir: Path, small_disk: Path, environment: dict[str, str]
) -> None:
    shutil.copytree(data_dir, small_disk / "data")
    variables = environment | {"CLICKLOOP_ADMIN_KEY": KEY, "CLICKLOOP_DATA_DIR": str(small_disk / "data")}
    with service(variables) as api:
        assert put(api, "before", wait=True).status_code == 200
        ballast = fill(small_disk)
        kept, refused = [], None
        for number in range(2000):  # the database's own files have some room left
            answer = put(api, f"kept/{number}", "a list " * 500)
            if answer.status_code != 200:
                refused = answer
                break
            kept.append(f"kept/{number}")
        assert refused is not None
        assert refused.status_code == 503
        assert int(refused.headers["Retry-After"]) > 0
        assert "full" in refused.json()["detail"]
        assert "send it again" in refused.json()["detail"]
        event = {"query_id": "q", "action": "click", "document_id": "before", "event_id": "e"}
        click = api.post("/v1/events", json={"events": [event]})
        assert click.status_code == 503, click.text
        answer = api.post("/v1/search", json={"query": "a list"})
        assert answer.status_code == 200
        assert answer.json()["hits"]

        ballast.unlink()
        until(lambda: put(api, "after").status_code == 200)
        assert put(api, "waited", wait=True).status_code == 200
        assert api.post("/v1/events", json={"events": [event]}).json()["accepted"] == 1
        for id_ in ("before", "after", "waited", *kept):
            assert api.get(f"/v1/documents/{id_}").status_code == 200
        hits = api.post("/v1/search", json={"query": "a list", "k": 1000}).json()["hits"]
        assert {"before", "after", "waited", *kept} <= {hit["id"] for hit in hits}


@contextmanager
def service(variables: dict[str, str]) -> Iterator[httpx.Client]:
    command = [sys.executable, "-m", "clickloop.plugin.cli", "serve", "--port", "0"]
    with subprocess.Popen(command, env=os.environ | variables, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        address = next(line for line in server.stderr if line.startswith("clickloop: http")).split()[1]
        drain = threading.Thread(target=server.stderr.read)
        drain.start()
        try:
            with httpx.Client(base_url=address, headers={"Authorization": f"Bearer {KEY}"}, timeout=60) as api:
                until(lambda: api.get("/ready").status_code == 200)
                yield api
        finally:
            server.terminate()
            drain.join()
    assert server.returncode == -signal.SIGTERM, "it did not survive"


# The database


def test_while_the_database_is_locked_writes_are_refused_and_searches_answered(
    data_dir: Path,
    settings_for: Callable[[Path], Settings],
    serving: Callable[..., AbstractContextManager[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(database_module, "BUSY_SECONDS", 0.2)
    loop = ClickLoop(settings_for(data_dir))
    event = {"query_id": "q", "action": "click", "document_id": "red-1", "event_id": "e"}
    with served(loop, serving) as api:
        other = sqlite3.connect(data_dir / "clickloop.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        refused = [
            put(api, "late"),
            api.delete("/v1/documents/red-1"),
            api.post("/v1/events", json={"events": [event]}),
        ]
        found = api.post("/v1/search", json={"query": "the red list"})
        other.rollback()
        other.close()
        for answer in refused:
            assert answer.status_code == 503
            assert int(answer.headers["Retry-After"]) > 0
            assert "locked" in answer.json()["detail"]
            assert answer.headers["Content-Type"] == "application/problem+json"
        assert found.status_code == 200
        assert len(found.json()["hits"]) > 0

        assert put(api, "late", wait=True).status_code == 200
        assert api.post("/v1/events", json={"events": [event]}).json()["accepted"] == 1
        asked = select(func.count()).where(searches.c.query_id == found.json()["query_id"])

        def logged() -> bool:
            with loop.database.read() as connection:
                return connection.scalar(asked) == 1

        until(logged)


# The Qdrant server


@pytest.fixture
def nobody() -> str:
    """An address where connections are refused."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


def with_qdrant(settings: Settings, url: str) -> Settings:
    return settings.model_copy(update={"qdrant": Qdrant(url=url)})


def test_without_a_qdrant_server_the_start_says_so(
    data_dir: Path, settings_for: Callable[[Path], Settings], nobody: str
) -> None:
    loop = ClickLoop(with_qdrant(settings_for(data_dir), nobody))
    with pytest.raises(Unreachable, match=r"refused.*start it, or correct qdrant\.url"):
        loop.start(nights=False)
    loop.close()


class Switchable(QdrantClient):
    """The in-memory server, or, while `down`, a real client whose connections are refused."""

    def __init__(self, url: str) -> None:
        super().__init__(":memory:")
        self._refused = QdrantClient(url=url, check_compatibility=False)
        self.down = False

    def __getattribute__(self, name: str) -> Any:
        if name != "down" and not name.startswith("_") and self.down:
            return getattr(self._refused, name)
        return super().__getattribute__(name)


def test_searches_while_the_qdrant_server_is_down_are_told_to_come_again(
    data_dir: Path,
    settings_for: Callable[[Path], Settings],
    serving: Callable[..., AbstractContextManager[str]],
    nobody: str,
) -> None:
    loop, server = ClickLoop(with_qdrant(settings_for(data_dir), nobody)), Switchable(nobody)
    loop._store = QdrantStore(server, "test-", {})
    with served(loop, serving) as api:
        loop.wait_for(loop.documents.revision())
        server.down = True
        answer = api.post("/v1/search", json={"query": "the red list"})
        assert answer.status_code == 503
        assert answer.headers["Retry-After"] == "30"
        assert "the Qdrant server does not answer" in answer.json()["detail"]
        assert put(api, "meanwhile", "the red list").status_code == 200, "documents are in the database"
        server.down = False
        until(lambda: "meanwhile" in api.post("/v1/search", json={"query": "the red list"}).text)


def test_nights_without_the_qdrant_server_fail_with_the_reason_and_the_next_one_works(
    interrupted: Settings, nobody: str
) -> None:
    """First it goes away while the index is built, then it is away all night."""
    loop, server = ClickLoop(with_qdrant(interrupted, nobody)), Switchable(nobody)
    loop._store = QdrantStore(server, "test-", {})

    def show(step: str, _share: float) -> None:
        server.down = server.down or step == "checking the new index"

    built = resumed(loop, show)
    assert server.down
    away = loop.run_night(loop.runs.queue("test").id, show)
    for run in (built, away):
        assert run.outcome == "failed"
        assert "the Qdrant server does not answer" in run.reasons[0]
    with loop.database.read() as connection:
        spent = connection.scalars(select(looks.c.run_id)).all()
    assert spent == [built.id], "a night that cannot build takes no look"

    server.down = False
    outcome = one_night(loop)
    assert outcome.startswith("promoted"), outcome
    assert set(loop.store.names()) == {build.id for build in loop.releases.builds()}, "no orphan"
    assert all(build.state in ("ready", "retired") for build in loop.releases.builds())
    loop.close()


class Refusing(QdrantClient):
    """A server that answers questions about collections with this HTTP status, or that it has too much to do."""

    def __init__(self, status: int | None) -> None:
        super().__init__(":memory:")
        self._status = status

    def collection_exists(self, *_: Any, **__: Any) -> bool:
        if self._status is None:
            raise ResourceExhaustedResponse("too many requests", retry_after_s=1)
        raise UnexpectedResponse(self._status, "reason", b"", httpx.Headers())


@pytest.mark.parametrize("status", [401, 403, 429, 500, 502, 503, None])
def test_a_qdrant_server_that_refuses_for_now_does_not_cost_the_index(status: int | None) -> None:
    """Where it is lost it would be made anew, after the old one was dropped."""
    with pytest.raises(Unreachable):
        QdrantStore(Refusing(status), "test-", {}).open("build")


def test_a_qdrant_server_that_refuses_for_good_says_so(nobody: str) -> None:
    with pytest.raises(IndexFault, match="refused") as refused:
        QdrantStore(Refusing(400), "test-", {}).open("build")
    assert not isinstance(refused.value, IndexLost)
    with pytest.raises(IndexLost, match="does not exist"):
        QdrantStore(Switchable(nobody), "test-", {}).open("build")


def test_collections_of_others_on_the_same_server_stay(
    data_dir: Path, settings_for: Callable[[Path], Settings], nobody: str
) -> None:
    """Of a service with the same prefix, of one whose prefix begins alike, and of something else."""
    others = [f"clickloop-{new_id('build')}", f"clickloop-shop-{new_id('build')}", "clickloop-my-own-notes"]
    loop, server = ClickLoop(with_qdrant(settings_for(data_dir), nobody)), Switchable(nobody)
    loop._store = store = QdrantStore(server, "clickloop-", {})
    for name in others:
        store.create(name.removeprefix("clickloop-"), 4)
    interrupted = loop.releases.add_build(loop.releases.list()[0].id)
    store.create(interrupted.id, 4)
    drop_half_made(loop.releases, store)
    assert {f"clickloop-{name}" for name in store.names()} == set(others)
    loop.close()


def test_what_is_written_to_a_qdrant_server_that_is_away_is_an_error_that_names_it(nobody: str) -> None:
    store = open_qdrant(nobody, None, "test-", {})
    with pytest.raises(Unreachable, match="refused"):
        store.create("build", 4)
    with pytest.raises(Unreachable):
        store.drop("build")
