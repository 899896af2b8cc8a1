"""A promotion killed at the boundary of every step, in the night's process and in the one that serves."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import orjson
import pytest
from kill_at_step import LAST, kill
from school import LessonSettings, resume, until
from sqlalchemy import func, select

from clickloop.plugin.loop import ClickLoop
from clickloop.plugin.settings import Settings
from clickloop.retriever import owner as owner_module
from clickloop.retriever.database import Database
from clickloop.retriever.documents import Documents
from clickloop.retriever.errors import DatabaseFault
from clickloop.retriever.ledger import entries, verify
from clickloop.retriever.owner import Owner
from clickloop.retriever.schema import live
from clickloop.retriever.types import Document

BOUNDARIES = (
    ("night", "before", "check_index"),
    ("night", "before", "mark_ready"),
    ("night", "before", "ask_owner"),  # the one before "_catch_up" is where `asked` begins
    ("night", "before", "_switch"),
    ("night", "before", "_retire"),
    ("night", "after", "ask_owner"),
    ("serve", "before", "_catch_up"),
    ("serve", "before", "_verify"),
    ("serve", "before", "_switch"),
    ("serve", "before", "_retire"),
    ("serve", "after", "_retire"),
)
NEW = [Document(f"new/{number}", "", f"{number} k l new") for number in range(5)]


@pytest.fixture
def copy(tmp_path: Path, lesson_settings: LessonSettings) -> Callable[[Path], Settings]:
    """Settings of a copy with documents that no index holds yet, and one document deleted that all do."""

    def made(folder: Path) -> Settings:
        settings = lesson_settings(Path(shutil.copytree(folder, tmp_path / "data")))
        loop = ClickLoop(settings)
        loop.add_documents(NEW)
        loop.delete_document("0/0")
        loop.close()
        return settings

    return made


@pytest.mark.parametrize(("who", "when", "step"), BOUNDARIES)
def test_a_promotion_killed_at_a_step_is_done_once_and_nothing_is_lost(
    who: str, when: str, step: str, judged: Path, asked: Path, copy: Callable[[Path], Settings]
) -> None:
    """Then the service and the night start again: one promotion, one live build, every document as acknowledged."""
    settings = copy(judged if who == "night" else asked)
    kill(settings, who, when, step)
    loop = ClickLoop(settings)
    run = resume(loop)
    assert (run.state, run.outcome) == ("finished", "promoted"), run.reasons
    moved = [orjson.loads(entry.content) for entry in entries(loop.database) if entry.kind == "switch"]
    assert [(one["reason"], one["state"]) for one in moved] == [("bootstrap", "done"), ("promotion", "done")]
    assert verify(loop.database) == []
    with loop.database.read() as connection:
        assert connection.scalar(select(func.count()).select_from(live)) == 1
    pointer, opened = loop.releases.live(), loop.live.current
    assert pointer is not None
    assert (pointer.id, pointer.release_id) == (moved[-1]["build"], moved[-1]["release"])
    until(lambda: (build := opened()) is not None and build.build.id == pointer.id)
    assert {build.state for build in loop.releases.builds() if build.id != pointer.id} == {"retired"}
    assert set(loop.store.names()) == {build.id for build in loop.releases.builds()}, "no orphaned index"
    loop.wait_for(loop.documents.revision())
    found = {hit.id for hit in loop.search("0 k new", k=1000, log=False)}
    assert {document.id for document in (*NEW, LAST)} <= found
    assert "0/0" not in found
    build = opened()
    assert build is not None
    assert build.index.count() == loop.documents.count()
    loop.close()


@pytest.mark.parametrize("hidden", ["the answer of the commit", "the step after it"])
def test_a_fault_that_hides_that_the_pointer_moved_leaves_nobody_behind(
    hidden: str, asked: Path, copy: Callable[[Path], Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = []

    def switch(owner: Owner, *given: object) -> None:
        committed(owner, *given)
        if hidden == "the answer of the commit" and not faults:
            faults.append("commit")
            raise DatabaseFault("the connection was lost")

    def say(database: Database, run_id: str | None, step: str) -> None:
        if hidden == "the step after it" and step == "retiring":
            faults.append("step")
            raise DatabaseFault("locked")
        said(database, run_id, step)

    committed: Callable[..., None] = Owner._switch
    said = owner_module.show_step
    monkeypatch.setattr(Owner, "_switch", switch)
    monkeypatch.setattr(owner_module, "show_step", say)
    loop = ClickLoop(copy(asked))
    wanted = loop.releases.wanted()
    assert wanted is not None
    loop.start(nights=False)
    until(lambda: bool(faults))
    until(lambda: (build := loop.live.current()) is not None and build.build.id == wanted.build_id)
    assert loop.releases.switch(wanted.id).state == "done"
    loop.wait_for(loop.documents.revision())
    assert {hit.id for hit in loop.search("0 k new", k=1000, log=False)} >= {document.id for document in NEW}
    loop.close()


def test_an_index_with_vectors_of_another_model_does_not_go_live(asked: Path, copy: Callable[[Path], Settings]) -> None:
    loop = ClickLoop(copy(asked))
    wanted, before = loop.releases.wanted(), loop.releases.live()
    assert wanted is not None
    index = loop.store.open(wanted.build_id)
    for stored in Documents(loop.database).sample(1, loop.releases.build(wanted.build_id).revision):
        wrong = np.ones((1, 32), dtype=np.float32) / np.sqrt(np.float32(32))
        index.upsert([stored.key], wrong, [stored.document.payload])
    index.close()
    loop.start(nights=False)
    until(lambda: loop.releases.switch(wanted.id).state != "requested")
    refused = loop.releases.switch(wanted.id)
    assert refused.state == "refused"
    assert "another vector for document" in str(refused.error)
    after = loop.releases.live()
    assert before is not None
    assert after is not None
    assert after.id == before.id
    loop.close()
