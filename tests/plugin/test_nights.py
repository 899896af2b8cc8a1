"""Who starts a nightly run, and who goes on with one that was interrupted."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from school import until

from clickloop.plugin import nights as module
from clickloop.plugin.loop import ClickLoop
from clickloop.plugin.nights import BUSY, Nights
from clickloop.plugin.settings import Qdrant, Schedule, Settings
from clickloop.retriever.errors import Conflict
from clickloop.retriever.locks import open_lock
from clickloop.trainer.runs import Bounds


@pytest.fixture
def loop(data_dir: Path, settings_for: Callable[[Path], Settings]) -> Iterator[ClickLoop]:
    opened = ClickLoop(settings_for(data_dir))
    yield opened
    opened.close()


@pytest.fixture
def begun(loop: ClickLoop, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The runs for which a child was started; each ends at once and ends its run."""
    runs: list[str] = []

    def spawn(_settings: Settings, _module: str, run_id: str) -> "subprocess.Popen[bytes]":
        runs.append(run_id)
        loop.runs.finish(run_id, "failed", ["by the test"])
        return subprocess.Popen([sys.executable, "-c", ""])

    monkeypatch.setattr(module, "spawn", spawn)
    return runs


def test_a_run_whose_process_died_elsewhere_goes_on_at_the_next_start_of_any(loop: ClickLoop, begun: list[str]) -> None:
    """`clickloop train` was killed while the service ran."""
    nights = Nights(loop.runs, loop.settings)
    nights.open()
    first = loop.runs.queue("cli")
    loop.runs.start(first.id, Bounds(0, 0))
    nights._on_schedule()
    until(lambda: begun == [first.id])

    second = loop.runs.queue("cli")
    with pytest.raises(Conflict, match=second.id):
        nights.start("api")
    until(lambda: begun == [first.id, second.id])
    nights.close()


def test_of_processes_that_share_a_server_one_without_a_schedule_only_queues(
    loop: ClickLoop, begun: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.02)
    shared = {"qdrant": Qdrant(url="http://nobody.example:6333")}
    api = Nights(loop.runs, loop.settings.model_copy(update=shared))
    worker = Nights(loop.runs, loop.settings.model_copy(update=shared | {"schedule": Schedule(cron="0 0 29 2 *")}))
    interrupted = loop.runs.queue("schedule")
    loop.runs.start(interrupted.id, Bounds(0, 0))
    api.open()
    with pytest.raises(Conflict, match=interrupted.id):
        api.start("api")
    assert api._watcher is None
    assert begun == []
    worker.open()
    until(lambda: begun == [interrupted.id])

    asked = api.start("api")
    until(lambda: begun == [interrupted.id, asked.id])
    assert api._watcher is None
    for nights in (api, worker):
        nights.close()


def test_a_single_process_without_a_schedule_runs_what_it_is_asked_for(loop: ClickLoop, begun: list[str]) -> None:
    nights = Nights(loop.runs, loop.settings)
    nights.open()
    asked = nights.start("api")
    until(lambda: bool(begun))
    nights.close()
    assert begun == [asked.id]


def test_a_night_that_another_process_is_in_the_middle_of_is_left_to_it(data_dir: Path, loop: ClickLoop) -> None:
    run = loop.runs.queue("cli")
    lock = open_lock(loop.database, data_dir / "locks", "night")
    assert lock.acquire()
    child = module.spawn(loop.settings, "nights", run.id)
    assert child.wait() == BUSY
    lock.release()
    again = loop.runs.get(run.id)
    assert (again.state, again.attempts) == ("queued", 0)
