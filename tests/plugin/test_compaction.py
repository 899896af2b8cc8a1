"""The live index is made anew when it has worn: nothing is lost, and nobody's answers change."""

import gc
import shutil
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import orjson
import pytest
from kill_at_step import LAST, kill
from school import LessonSettings, resume, until
from sqlalchemy import func, select

from clickloop.plugin.children import spawn
from clickloop.plugin.loop import ClickLoop
from clickloop.plugin.settings import Settings
from clickloop.retriever.compaction import Compactions
from clickloop.retriever.ledger import entries, verify
from clickloop.retriever.schema import live
from clickloop.retriever.types import Build, Document

NEW = [Document(f"new/{number}", "", f"{number} k l new") for number in range(5)]
BOUNDARIES = (
    ("compact", "before", "make_index"),
    ("compact", "after", "make_index"),
    ("compact", "before", "_hand_over"),
    ("compact", "after", "_hand_over"),
    ("serve", "before", "_catch_up"),
    ("serve", "before", "_verify"),
    ("serve", "before", "_switch"),
    ("serve", "after", "_switch"),
    ("serve", "before", "_retire"),
    ("serve", "after", "_retire"),
)


@pytest.fixture
def settings(taught: Path, tmp_path: Path, lesson_settings: LessonSettings) -> Settings:
    """Of a folder of its own, whose service would not begin a compaction by itself."""
    return lesson_settings(Path(shutil.copytree(taught, tmp_path / "data")))


@pytest.fixture
def loop(settings: Settings) -> Iterator[ClickLoop]:
    with ClickLoop(settings) as opened:
        yield opened


def pointer(loop: ClickLoop) -> Build:
    found = loop.releases.live()
    assert found is not None
    return found


def switches(loop: ClickLoop) -> list[tuple[str, str]]:
    moved = [orjson.loads(entry.content) for entry in entries(loop.database) if entry.kind == "switch"]
    return [(one["reason"], one["state"]) for one in moved]


def served(loop: ClickLoop) -> str:
    opened = loop.live.current()
    assert opened is not None
    return opened.build.id


def compacted(loop: ClickLoop) -> Build:
    """After one compaction, with its switch granted."""
    made = loop.compaction().run()
    assert made is not None
    until(lambda: served(loop) == made.id)
    until(lambda: loop.store.names() == [build.id for build in reversed(loop.releases.builds())])
    return made


def test_an_index_that_has_worn_is_made_anew_by_a_child_while_people_search(settings: Settings) -> None:
    with ClickLoop(settings.model_copy(update={"compact_after": 20})) as loop:
        before = pointer(loop)
        answers: set[tuple[str, ...]] = set()
        done = threading.Event()

        def search() -> None:
            while not done.is_set():
                answers.add(tuple(hit.id for hit in loop.search("3 k", k=5, log=False)))

        searching = threading.Thread(target=search)
        searching.start()
        until(lambda: served(loop) != before.id)
        done.set()
        searching.join()
        after = pointer(loop)
        assert len(answers) == 1
        assert (after.release_id, after.unoptimized) == (before.release_id, 0)
        until(lambda: loop.store.names() == [after.id] == [build.id for build in loop.releases.builds()])
        assert switches(loop)[-1] == ("compaction", "done")


def test_documents_written_and_deleted_meanwhile_are_as_told(loop: ClickLoop) -> None:
    loop.add_documents(NEW, wait=True)
    loop.delete_document("0/0")
    made = loop.compaction().run()
    assert made is not None
    last = loop.add_documents([Document("new/0", "", "0 written again"), Document("later", "", "0 k l new")])
    loop.delete_document("new/1")
    until(lambda: served(loop) == made.id)
    loop.wait_for(last + 1)
    found = {hit.id: hit.text for hit in loop.search("0 k new", k=1000, log=False)}
    assert found["new/0"] == "0 written again"
    assert {"later", "new/2"} <= set(found)
    assert not {"0/0", "new/1"} & set(found)
    opened = loop.live.current()
    assert opened is not None
    assert opened.index.count() == loop.documents.count()


def test_vectors_that_are_not_stored_are_encoded(loop: ClickLoop) -> None:
    release = loop.releases.get(pointer(loop).release_id)
    newest = loop.releases.vectors(release).newest()
    loop.releases.vectors(release).compact(newest.keys[::2])
    expected = [hit.id for hit in loop.search("7 m", k=3, log=False)]
    compacted(loop)
    assert [hit.id for hit in loop.search("7 m", k=3, log=False)] == expected


@pytest.mark.parametrize(("who", "when", "step"), BOUNDARIES)
def test_a_compaction_killed_at_a_step_loses_nothing_and_leaves_nothing(
    who: str, when: str, step: str, settings: Settings
) -> None:
    loop = ClickLoop(settings)
    before = pointer(loop)
    loop.add_documents(NEW)
    loop.delete_document("0/0")
    if who == "serve":
        loop.compaction().run()
    loop.close()
    kill(settings, who, when, step)
    with ClickLoop(settings) as again:
        until(lambda: again.releases.wanted() is None)
        finished = who == "serve" or (when, step) == ("after", "_hand_over")
        assert (pointer(again).id != before.id) == finished
        until(lambda: served(again) == pointer(again).id)
        assert pointer(again).release_id == before.release_id
        if not finished:
            compacted(again)
        assert switches(again) == [("bootstrap", "done"), ("compaction", "done")]
        assert verify(again.database) == []
        with again.database.read() as connection:
            assert connection.scalar(select(func.count()).select_from(live)) == 1
        until(lambda: [build.id for build in again.releases.builds()] == [pointer(again).id] == again.store.names())
        again.wait_for(again.documents.revision())
        found = {hit.id for hit in again.search("0 k new", k=1000, log=False)}
        assert {document.id for document in (*NEW, LAST)} <= found
        assert "0/0" not in found
        opened = again.live.current()
        assert opened is not None
        assert opened.index.count() == again.documents.count()


def test_none_begins_while_a_night_runs(loop: ClickLoop) -> None:
    night = loop.night()
    lock = night._lock
    assert lock.acquire()
    assert loop.compaction().run() is None
    lock.release()
    assert loop.compaction().run() is not None


def test_a_night_waits_for_its_end(loop: ClickLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has to start a scheduled night again because an index was made just then."""
    building, done = threading.Event(), threading.Event()
    original = loop.store.check_room

    def slow(documents: int, dimension: int, like: str) -> None:
        building.set()
        assert done.wait(60)
        original(documents, dimension, like)

    with monkeypatch.context() as patch:
        patch.setattr(loop.store, "check_room", slow)
        compaction = threading.Thread(target=loop.compaction().run)
        compaction.start()
        assert building.wait(60)
    run = loop.runs.queue("test")
    outcomes: list[str | None] = []
    night = threading.Thread(target=lambda: outcomes.append(loop.run_night(run.id, lambda _step, _share: None).outcome))
    night.start()
    assert loop.runs.get(run.id).state == "queued"
    done.set()
    compaction.join()
    night.join()
    assert outcomes == ["promoted"]


def test_rollback_after_a_compaction_goes_to_the_former_release(
    asked: Path, tmp_path: Path, lesson_settings: LessonSettings
) -> None:
    loop = ClickLoop(lesson_settings(Path(shutil.copytree(asked, tmp_path / "data"))))
    resume(loop)
    first, promoted = loop.releases.list()[-1].id, pointer(loop)
    assert promoted.release_id != first
    made = compacted(loop)
    assert made.release_id == promoted.release_id
    assert loop.releases.former() == first
    number = loop.releases.request_switch(loop.releases.newest_build(first).id, "rollback", "test")
    until(lambda: loop.releases.switch(number).state == "done")
    assert pointer(loop).release_id == first
    assert loop.releases.former() == promoted.release_id
    back = loop.releases.request_switch(loop.releases.newest_build(promoted.release_id).id, "rollback", "test")
    until(lambda: loop.releases.switch(back).state == "done")
    assert pointer(loop).id == made.id
    loop.close()


def test_a_compaction_of_a_release_that_is_not_live_any_more_is_refused_and_removed(
    asked: Path, tmp_path: Path, lesson_settings: LessonSettings
) -> None:
    loop = ClickLoop(lesson_settings(Path(shutil.copytree(asked, tmp_path / "data"))))
    resume(loop)
    promoted, first = pointer(loop), loop.releases.list()[-1]
    late = loop.releases.add_build(first.id)
    loop.store.create(late.id, first.dimension).close()
    number = loop.releases.request_switch(late.id, "compaction", "system")
    until(lambda: loop.releases.switch(number).state != "requested")
    refused = loop.releases.switch(number)
    assert refused.state == "refused"
    assert "superseded" in str(refused.error)
    until(lambda: late.id not in loop.store.names())
    assert pointer(loop).id == promoted.id
    loop.close()


def test_stored_vectors_of_former_documents_are_dropped(loop: ClickLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clickloop.retriever.vectors.COPIED", 16)
    release = loop.releases.get(pointer(loop).release_id)
    for _ in range(3):
        loop.add_documents([Document(f"{topic}/{n}", "", f"{topic} k") for topic in range(10) for n in range(6)], True)
    stored = loop.releases.vectors(release)
    assert stored.worn(loop.documents.count())
    compacted(loop)
    until(lambda: not stored.worn(loop.documents.count()))
    assert np.array_equal(stored.newest().keys, loop.documents.keys())


def test_what_was_live_is_gone_when_it_is_retired(loop: ClickLoop) -> None:
    """The first build too, whose model takes hundreds of MB; without waiting for a garbage collection."""
    former = weakref.ref(loop.live.current())  # type: ignore[arg-type]
    loop.search("a k", k=5)
    gc.disable()
    try:
        compacted(loop)
        for _ in range(100):  # the owner lets go of it at its next look
            if former() is not None:
                time.sleep(0.1)
        assert former() is None
    finally:
        gc.enable()


def test_an_index_that_was_not_replaced_is_not_made_again_and_again() -> None:
    """The child found that it was not the time for it, or the owner refused what it made."""
    begun = []

    def spawn() -> "subprocess.Popen[bytes]":
        begun.append(subprocess.Popen([sys.executable, "-c", ""]))
        return begun[-1]

    def look(build: Build) -> int:
        compactions.look(build, lambda: False)
        begun[-1].wait()
        return len(begun)

    compactions = Compactions(10, spawn)
    worn = [Build(f"build-{number}", "release", "ready", 50, 0.0) for number in range(3)]
    assert [look(build) for build in worn] == [1, 2, 3], "each went live and has worn since"
    assert [look(worn[-1]) for _ in range(5)] == [3] * 5
    assert look(worn[0]) == 3, "it waits for a while, whatever is live then"


def test_a_child_says_what_went_wrong_in_json_lines_as_the_service_does(
    settings: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    """Both write to one standard error, which whoever collects the logs parses."""
    shutil.rmtree(settings.data_dir / "releases")
    assert spawn(settings, "compaction").wait() == 1
    lines = [orjson.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [(line["level"], line["message"].partition(":")[0]) for line in lines] == [("error", "compaction")]
