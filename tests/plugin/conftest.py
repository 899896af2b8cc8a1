"""A service on a data folder that was prepared once: a first release of the tiny model and a few documents."""

import gc
import hashlib
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import httpx
import orjson
import pytest
import uvicorn
from fastapi import FastAPI
from jury import uncertain
from kill_at_step import kill
from school import RECIPE, LessonSettings, documents, one_night, teach

from clickloop.plugin import cli
from clickloop.plugin.app import create_app
from clickloop.plugin.loop import ClickLoop
from clickloop.plugin.settings import Schedule, Settings
from clickloop.retriever.encoder import load_model
from clickloop.retriever.pointer import set_build
from clickloop.retriever.types import Build, Document
from clickloop.trainer import teach as teaching
from clickloop.trainer.finetune import Course, finetune

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

PATIENCE_SECONDS = 60
COLOURS = ("red", "green", "blue", "black", "white", "yellow")
DOCUMENTS = [
    Document(f"{colour}-{number}", f"{colour} list {number}", f"the {colour} list of string {number}", payload)
    for colour in COLOURS
    for number, payload in ((1, {"colour": colour, "year": 2001}), (2, {"colour": colour, "year": 2002}))
]


@pytest.fixture(scope="session", autouse=True)
def _no_settings_from_outside() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if re.match("CLICKLOOP_(?!TEST_)", name)]:
            patch.delenv(name)
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_training_twice(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Most nights here are the first of the same log: the same weights, pairs and dials, and so the same candidate. In
    this process it is trained once; what goes on after a kill is trained to its end.
    """
    kept: dict[str, tuple[Path, list[dict[str, float]]]] = {}
    folder = tmp_path_factory.mktemp("trained")

    def train_once(
        course: Course, work: Path, *, seed: int, progress: Callable[[float], None]
    ) -> "tuple[SentenceTransformer, list[dict[str, float]]]":
        lesson = repr((course.training, course.development, course.dials, course.prompts, seed)).encode()
        key = hashlib.sha256((course.start / "model.safetensors").read_bytes() + lesson).hexdigest()
        if key in kept and not work.exists():
            trained, curve = kept[key]
            progress(1.0)
            return load_model(str(trained)), curve
        model, curve = finetune(course, work, seed=seed, progress=progress)
        model.save(str(folder / key), create_model_card=False)
        kept[key] = folder / key, curve
        return model, curve

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(teaching, "finetune", train_once)
        yield


@pytest.fixture(scope="session")
def settings_for(tiny_model: Path) -> Callable[[Path], Settings]:
    """The settings of a service on this data folder; it starts no nightly run by itself."""
    return lambda folder: Settings(data_dir=folder, model=str(tiny_model), schedule=Schedule(enabled=False))


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory, settings_for: Callable[[Path], Settings]) -> Path:
    """A data folder that no process uses; to be copied, never to be opened."""
    folder = tmp_path_factory.mktemp("prepared") / "data"
    with ClickLoop(settings_for(folder)) as loop:
        loop.add_documents(DOCUMENTS, wait=True)
    gc.collect()
    gc.freeze()  # torch and what comes with it: every training ends with a search for garbage among all that is left
    return folder


@pytest.fixture
def data_dir(prepared: Path, tmp_path: Path) -> Path:
    """A copy of the prepared data folder for this test alone."""
    return Path(shutil.copytree(prepared, tmp_path / "data"))


@pytest.fixture
def environment(tmp_path: Path, tiny_model: Path) -> dict[str, str]:
    """For processes: `data_dir`, or where a test has none of it an empty folder, and the tiny model."""
    return os.environ | {
        "CLICKLOOP_DATA_DIR": str(tmp_path / "data"),
        "CLICKLOOP_MODEL": str(tiny_model),
        "CLICKLOOP_SCHEDULE__ENABLED": "false",
    }


@pytest.fixture
def run(tmp_path: Path, environment: dict[str, str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the program to its end in a process of its own: run("ingest", "-", input="…", VARIABLE="…")."""

    def program(*arguments: str, input: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "clickloop.plugin.cli", *arguments],
            input=input,
            env=environment | variables,
            cwd=tmp_path,
            timeout=PATIENCE_SECONDS,
            capture_output=True,
            text=True,
            check=False,
        )

    return program


@pytest.fixture
def here(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs a command to its end without a process of its own: its exit status, output and errors."""
    for name in ("CLICKLOOP_DATA_DIR", "CLICKLOOP_MODEL", "CLICKLOOP_SCHEDULE__ENABLED"):
        monkeypatch.setenv(name, environment[name])

    def program(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["clickloop", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return program


@pytest.fixture(scope="session")
def serving() -> Callable[..., AbstractContextManager[str]]:
    """Serves an app over real HTTP in a thread and gives its address: serving(app), serving(app, lifespan="off")."""
    return _serving


@pytest.fixture(scope="session")
def retired() -> Callable[[ClickLoop], Build]:
    """Makes an empty build of a copy of the first release, to which a rollback can go."""
    return _retired


@pytest.fixture(scope="session")
def until() -> Callable[[Callable[[], bool]], None]:
    """Returns as soon as the condition holds."""
    return _until


@pytest.fixture(scope="module")
def loop(
    prepared: Path, tmp_path_factory: pytest.TempPathFactory, settings_for: Callable[[Path], Settings]
) -> Iterator[ClickLoop]:
    """The parts behind `api`."""
    folder = tmp_path_factory.mktemp("served")
    yield ClickLoop(settings_for(Path(shutil.copytree(prepared, folder / "data"))))
    shutil.rmtree(folder)  # the engine takes 128 MiB for the smallest index


@pytest.fixture(scope="module")
def address(loop: ClickLoop) -> Iterator[str]:
    """Of a service that all tests of a module share."""
    with _serving(create_app(loop)) as url:
        loop.wait_until_ready()
        yield url


@pytest.fixture(scope="module")
def api(address: str, loop: ClickLoop) -> Iterator[httpx.Client]:
    """A client of the shared service with an admin's key."""
    headers = {"Authorization": f"Bearer {loop.keys.create('admin')[1]}"}
    with httpx.Client(base_url=address, headers=headers, timeout=PATIENCE_SECONDS) as client:
        yield client


@contextmanager
def _serving(app: FastAPI, lifespan: Literal["on", "off"] = "on") -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, lifespan=lifespan))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        _until(lambda: server.started or not thread.is_alive())
        assert server.started, "the service did not start"
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def _retired(loop: ClickLoop) -> Build:
    (first,) = loop.releases.list()
    copy = replace(first, id="release-copy", parent=first.id, created_at=first.created_at + 1)
    folder = loop.releases.folder(copy.id)
    shutil.copytree(loop.releases.folder(first.id), folder)
    (folder / "release.json").write_bytes(orjson.dumps(asdict(copy)))
    loop.releases.record(copy)
    build = loop.releases.add_build(copy.id)
    loop.store.create(build.id, copy.dimension).close()
    with loop.database.write() as connection:
        set_build(connection, build.id, state="retired")
    return build


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE_SECONDS} s"
        time.sleep(0.02)


@pytest.fixture(scope="session")
def lesson_settings(tiny_model: Path) -> LessonSettings:
    """The recipe for a tiny model; the gate is the one of the product."""
    return lambda folder: Settings(
        data_dir=folder,
        model=str(tiny_model),
        schedule=Schedule(enabled=False),
        training=RECIPE,
    )


@pytest.fixture(scope="session")
def taught(prepared: Path, tmp_path_factory: pytest.TempPathFactory, lesson_settings: LessonSettings) -> Path:
    """A data folder with documents and a day of sensible clicks; to be copied."""
    folder = Path(shutil.copytree(prepared, tmp_path_factory.mktemp("taught") / "data"))
    with ClickLoop(lesson_settings(folder)) as loop:
        loop.add_documents(documents(), wait=True)
        teach(loop, sense=True)
    return folder


@pytest.fixture(scope="session")
def judged(taught: Path, tmp_path_factory: pytest.TempPathFactory, lesson_settings: LessonSettings) -> Path:
    """A data folder whose night was killed when its candidate had won and nothing was built; to be copied."""
    folder = Path(shutil.copytree(taught, tmp_path_factory.mktemp("judged") / "data"))
    loop = ClickLoop(lesson_settings(folder))
    loop.runs.queue("test")
    loop.close()
    kill(lesson_settings(folder), "night", "before", "build_index")
    return folder


@pytest.fixture(scope="session")
def asked(judged: Path, tmp_path_factory: pytest.TempPathFactory, lesson_settings: LessonSettings) -> Path:
    """The same, killed when its build was ready and the switch asked for; to be copied."""
    folder = Path(shutil.copytree(judged, tmp_path_factory.mktemp("asked") / "data"))
    kill(lesson_settings(folder), "night", "before", "_catch_up")
    return folder


@pytest.fixture
def folder(taught: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(taught, tmp_path / "data"))


@pytest.fixture(scope="session")
def with_challenger(taught: Path, tmp_path_factory: pytest.TempPathFactory, lesson_settings: LessonSettings) -> Path:
    """A data folder after a night that made a challenger; to be copied."""
    folder = Path(shutil.copytree(taught, tmp_path_factory.mktemp("challenger") / "data"))
    loop = ClickLoop(uncertain(lesson_settings, folder))
    outcome = one_night(loop)
    assert outcome.startswith("not_enough_evidence"), outcome
    assert loop.releases.challenger_build() is not None
    loop.close()
    return folder


@pytest.fixture
def challenged(with_challenger: Path, tmp_path: Path, lesson_settings: LessonSettings) -> Settings:
    return uncertain(lesson_settings, Path(shutil.copytree(with_challenger, tmp_path / "data")))
