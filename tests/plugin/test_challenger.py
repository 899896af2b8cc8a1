"""A candidate short of evidence is shown beside the champion: when, to whom, and what ends it."""

import shutil
from pathlib import Path

import orjson
import pytest
from jury import ask, open_with_challenger, state, uncertain
from kill_at_step import kill
from school import LessonSettings, documents, one_night, until
from sqlalchemy import select

from clickloop.plugin.loop import ClickLoop
from clickloop.plugin.settings import Settings
from clickloop.retriever.encoder import load_model
from clickloop.retriever.ledger import entries
from clickloop.retriever.schema import looks, searches, shown
from clickloop.retriever.search import RANKER
from clickloop.retriever.types import Document
from clickloop.trainer import gate
from clickloop.trainer.challenge import Challengers
from clickloop.trainer.guards import Guarded


@pytest.mark.parametrize(
    ("traffic", "broken", "outcome", "followed"),
    [
        (1.0, False, "not_enough_evidence", True),
        (0.0, False, "rejected", False),
        (1.0, True, "rejected", False),
    ],
)
def test_what_the_screen_refuses_is_shown_to_people_if_it_breaks_no_guard(
    taught: Path,
    tmp_path: Path,
    lesson_settings: LessonSettings,
    monkeypatch: pytest.MonkeyPatch,
    traffic: float,
    broken: bool,
    outcome: str,
    followed: bool,
) -> None:
    settings = uncertain(lesson_settings, Path(shutil.copytree(taught, tmp_path / "data")))
    dials = settings.promotion.model_copy(update={"evaluation_traffic": traffic})
    loop = ClickLoop(settings.model_copy(update={"promotion": dials}))
    monkeypatch.setattr(gate, "SCREEN_Z", 1e9)
    monkeypatch.setattr(Guarded, "holds", not broken)
    found = one_night(loop)
    assert found.startswith(outcome), found
    assert "development split" in found
    assert (loop.releases.challenger_build() is not None) == followed
    with loop.database.read() as connection:
        spent = connection.execute(select(looks)).all()
    assert [(look.k, look.level) for look in spent] == ([(1, 0.0)] if traffic else [])
    loop.close()


def test_while_one_is_followed_what_the_screen_refuses_ends(
    challenged: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = open_with_challenger(challenged)
    wanted = loop.releases.challenger_build()
    ask(loop, 60, likes=False)
    monkeypatch.setattr(gate, "SCREEN_Z", 1e9)
    assert one_night(loop).startswith("rejected")
    assert loop.releases.challenger_build() == wanted
    loop.close()


def test_the_challengers_index_holds_what_is_written_and_deleted(challenged: Settings) -> None:
    loop = open_with_challenger(challenged)
    opened = loop.live.challenger()
    assert opened is not None
    loop.add_documents([Document("new", "", "3 k l")])
    loop.delete_document("3/1")
    until(lambda: opened.build.revision == loop.documents.revision())
    assert opened.index.count() == loop.documents.count()
    loop.close()


def test_searches_that_are_not_logged_never_see_the_challenger(challenged: Settings) -> None:
    loop = open_with_challenger(challenged)
    alone = [hit.id for hit in loop.search("a k l", 6, log=False)]
    champion = loop.live.current()
    assert champion is not None
    keys = [n.key for n in champion.index.query(champion.encoder.query("a k l"), 6)]
    assert alone == [loop.documents.by_key(keys)[key].id for key in keys]
    loop.close()


def test_a_challenger_that_cannot_answer_costs_nobody_an_answer(challenged: Settings) -> None:
    loop = open_with_challenger(challenged)
    opened = loop.live.challenger()
    assert opened is not None
    opened.retire()
    answer = loop.search("a k l", 6)
    assert len(answer) == 6
    until(lambda: rankers_of(loop, answer.query_id) == {RANKER})
    loop.close()


def rankers_of(loop: ClickLoop, query_id: str) -> set[str]:
    with loop.database.read() as connection:
        rows = select(shown.c.ranker).join(searches, searches.c.seq == shown.c.search_seq)
        return set(connection.scalars(rows.where(searches.c.query_id == query_id)))


def test_a_challenger_whose_model_is_gone_is_given_up_and_the_service_goes_on(challenged: Settings) -> None:
    loop = ClickLoop(challenged)
    wanted = loop.releases.challenger_build()
    assert wanted is not None
    shutil.rmtree(loop.releases.folder(wanted.release_id))
    loop.start(nights=False)
    loop.wait_until_ready()
    until(lambda: loop.releases.challenger_build() is None)
    loop.add_documents([Document("new", "", "3 k l")], wait=True)
    assert len(loop.search("a k l", 6)) == 6
    loop.close()


@pytest.mark.parametrize("lost", ["release.json", "encoder.onnx"])
def test_a_night_gives_up_a_challenger_whose_model_is_gone_and_goes_on(challenged: Settings, lost: str) -> None:
    loop = ClickLoop(challenged)
    before = state(loop)
    (loop.releases.folder(before["release_id"]) / lost).unlink()
    outcome = one_night(loop)
    assert not outcome.startswith(("promoted", "failed")), outcome
    assert loop.releases.challenger_build() is None or state(loop)["run_id"] != before["run_id"]
    loop.close()


def test_a_challenger_that_the_owner_gives_up_while_it_is_judged_stays_so(
    challenged: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = Challengers.fresh

    def given_up(challengers: Challengers, run_id: str, units: set[str]) -> set[str]:
        challengers.drop()
        return fresh(challengers, run_id, units)

    monkeypatch.setattr(Challengers, "fresh", given_up)
    loop = ClickLoop(challenged)
    before = state(loop)
    outcome = one_night(loop)
    assert not outcome.startswith(("promoted", "failed")), outcome
    assert loop.releases.challenger_build() is None or state(loop)["run_id"] != before["run_id"]
    loop.close()


def test_a_rollback_ends_the_challenger_and_its_index(challenged: Settings) -> None:
    loop = open_with_challenger(challenged)
    wanted, live = loop.releases.challenger_build(), loop.releases.live()
    assert wanted is not None
    assert live is not None
    model = load_model(str(loop.releases.folder(live.release_id) / "model"))
    former = loop.releases.make(model, parent=None, lineage={})
    other = loop.releases.add_build(former.id)
    loop.store.create(other.id, former.dimension).close()
    number = loop.releases.request_switch(other.id, "rollback", "test")
    until(lambda: loop.releases.switch(number).state == "done")
    until(lambda: loop.live.challenger() is None and wanted.id not in loop.store.names())
    assert loop.releases.challenger_build() is None
    loop.close()


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_run_killed_when_its_challengers_index_is_ready_promotes_nothing_and_hears_it_once(
    when: str, taught: Path, tmp_path: Path, lesson_settings: LessonSettings
) -> None:
    """Though documents are gone since: what it had decided stands, and is its only look."""
    settings = uncertain(lesson_settings, Path(shutil.copytree(taught, tmp_path / "data")))
    loop = ClickLoop(settings)
    loop.runs.queue("test")
    loop.close()
    kill(settings, "night", when, "keep")
    loop = ClickLoop(settings)
    for document in documents()[:30]:
        loop.delete_document(document.id)
    before, interrupted = loop.releases.live(), loop.runs.unfinished()
    assert before is not None
    assert interrupted is not None
    run = loop.run_night(interrupted.id, lambda _step, _share: None)
    assert run.outcome == "not_enough_evidence", run.reasons
    live, followed = loop.releases.live(), loop.releases.challenger_build()
    assert live is not None
    assert followed is not None
    assert live.id == before.id
    assert (followed.state, state(loop)["nights"]) == ("ready", 1)
    (decision,) = [orjson.loads(entry.content) for entry in entries(loop.database) if entry.kind == "decision"]
    found = state(loop)["queries"]
    assert (found["n"], found["total"] / found["n"]) == (decision["n"], decision["mean"])
    assert set(loop.store.names()) == {live.id, followed.id} == {build.id for build in loop.releases.builds()}
    loop.close()
