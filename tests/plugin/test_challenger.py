"""A candidate short of evidence: people see it beside the champion, and what they prefer decides."""

import random
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from kill_at_step import kill
from school import FILLERS, TOPICS, LessonSettings, documents, one_night, resume, until
from sqlalchemy import func, select

from clickloop.plugin.loop import ClickLoop
from clickloop.plugin.settings import Settings
from clickloop.retriever.encoder import load_model
from clickloop.retriever.ledger import entries, verify
from clickloop.retriever.schema import challenger, looks, searches, shown
from clickloop.retriever.search import RANKER, against
from clickloop.retriever.types import Build, Document, Event, Who
from clickloop.trainer import gate
from clickloop.trainer import teach as teaching
from clickloop.trainer.challenge import Challengers
from clickloop.trainer.contest import Side
from clickloop.trainer.guards import Guarded
from clickloop.trainer.judge import Judge, Tonight
from clickloop.trainer.nightly import Night
from clickloop.trainer.promote import Promoter
from clickloop.trainer.recipe import Mining, Promotion, Split
from clickloop.trainer.snapshot import cluster_of
from clickloop.trainer.split import draw

PEOPLE = 250


def uncertain(lesson_settings: LessonSettings, folder: Path) -> Settings:
    """So few queries judge that a first look can prove nothing, and everybody sees champion and challenger."""
    return lesson_settings(folder).model_copy(
        update={
            "split": Split(holdout=0.02, development=0.2),
            "promotion": Promotion(min_queries=10, evaluation_traffic=1.0),
        }
    )


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


def ask(loop: ClickLoop, people: int, likes: bool) -> None:
    """People click results on their topic, or without likes none."""
    chance, clicks = random.Random(7), []
    for number in range(people):
        topic = number % 10
        who = Who(client_id=f"judge-{likes}-{number}")
        answer = loop.search(f"{TOPICS[topic]} {' '.join(chance.sample(FILLERS, 3))}", 6, who=who)
        right = [hit.id for hit in answer if likes and hit.id.startswith(f"{topic}/")]
        clicks += [
            Event(f"{answer.query_id}{id_}", answer.query_id, "click", id_, None, who, None, 1.0) for id_ in right
        ]
    loop.add_events(clicks)


def searched(loop: ClickLoop) -> list[str]:
    """All queries of the log."""
    with loop.database.read() as connection:
        return sorted(connection.scalars(select(searches.c.query).distinct()))


def open_with_challenger(settings: Settings) -> ClickLoop:
    loop = ClickLoop(settings)
    loop.start(nights=False)
    loop.wait_until_ready()
    until(lambda: loop.live.challenger() is not None)
    return loop


def promoted(settings: Settings) -> tuple[ClickLoop, Build, str]:
    """After the night in which people's votes promote the challenger: its build, and what the night says."""
    loop = open_with_challenger(settings)
    wanted = loop.releases.challenger_build()
    assert wanted is not None
    ask(loop, PEOPLE, likes=True)
    outcome = one_night(loop)
    assert outcome.startswith("promoted"), outcome
    return loop, wanted, outcome


def test_what_people_prefer_promotes_a_challenger(challenged: Settings) -> None:
    loop = open_with_challenger(challenged)
    wanted = loop.releases.challenger_build()
    assert wanted is not None
    ask(loop, PEOPLE, likes=True)
    with loop.database.read() as connection:
        rankers = Counter(connection.scalars(select(shown.c.ranker).where(shown.c.propensity < 1)))
        picked = select(shown.c.ranker).where(shown.c.propensity < 1)
        unscored = set(connection.scalars(picked.where(shown.c.score.is_(None))))
        scored = set(connection.scalars(picked.where(shown.c.score.is_not(None))))
        looks_before = connection.scalar(select(func.count()).select_from(looks))
    assert unscored == {wanted.release_id}, "cosines of two models do not compare"
    assert scored == {against(wanted.release_id)}
    ours, theirs = rankers[wanted.release_id], rankers[against(wanted.release_id)]
    assert PEOPLE < ours + theirs <= 6 * PEOPLE, "what both find best is nobody's"
    assert abs(ours - theirs) <= PEOPLE, "both pick once a round"

    outcome = one_night(loop)
    assert outcome.startswith("promoted"), outcome
    assert f"{PEOPLE} people" in outcome, loop.runs.page(1)[0][0].details["challenger"]
    live = loop.releases.live()
    assert live is not None
    assert live.id == wanted.id, "the build that people saw, not another one"
    assert loop.search("a k", 3).release == wanted.release_id
    (run, *_), _ = loop.runs.page(1)
    assert run.details["challenger"]["people"]["n"] == PEOPLE
    with loop.database.read() as connection:
        following = connection.execute(select(challenger)).one()
        spent = connection.execute(select(looks).order_by(looks.c.k)).all()
    assert (following.run_id, following.champion_id) == (run.id, wanted.release_id)
    assert following.queries["n"] == following.people["n"] == 0
    assert len(spent) == looks_before + 1, "what the log taught since is followed at once"
    assert (spent[-1].run_id, spent[-1].k, spent[-1].level) == (run.id, following.k, 0.0)
    until(lambda: loop.live.challenger() is not None)
    assert verify(loop.database) == []
    loop.close()


def test_what_taught_a_challenger_never_judges_it_though_more_is_held_out_since(challenged: Settings) -> None:
    taught_by = challenged.split.holdout
    more = challenged.model_copy(update={"split": Split(holdout=0.9, development=0.05)})
    loop = open_with_challenger(more)
    queries, unknown, clicks = searched(loop), "a b c d", []
    for number, query in enumerate([*queries, unknown]):
        who = Who(client_id=f"again-{number}")
        answer = loop.search(query, 6, who=who)
        clicks.append(Event(answer.query_id, answer.query_id, "click", answer[0].id, None, who, None, 1.0))
    loop.add_events(clicks)
    one_night(loop)
    (run, *_), _ = loop.runs.page(1)
    heard = run.details["challenger"]["queries"]["n"]
    held_out = sum(draw(cluster_of(query)) < taught_by for query in queries)
    assert 1 <= heard <= held_out + 1 < len(queries) / 10, "what nobody searched before says something new"
    loop.close()


@pytest.mark.parametrize("fault", ["too few pairs", "no training"])
def test_a_promotion_stands_whatever_becomes_of_the_next_challenger(
    challenged: Settings, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    if fault == "too few pairs":
        challenged = challenged.model_copy(update={"mining": Mining(min_pairs=100_000)})
    else:
        monkeypatch.setattr(teaching, "finetune", lambda *_args, **_kwargs: 1 / 0)
    loop, wanted, outcome = promoted(challenged)
    assert "nothing new is followed: " in outcome
    live = loop.releases.live()
    assert live is not None
    assert live.id == wanted.id
    assert loop.releases.challenger_build() is None
    loop.close()


def test_a_next_challenger_that_breaks_a_guard_is_not_shown_and_the_report_tells_them_apart(
    challenged: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    guards = Judge.guards

    def broken(judge: Judge, tonight: Tonight, side: Side, part: str | None = None) -> list[Guarded]:
        with monkeypatch.context() as patch:
            if part is not None:
                patch.setattr(Guarded, "holds", False)
            found = guards(judge, tonight, side, part)
        return found if part is None else [replace(guard, low=-1.0, tolerance=0.0) for guard in found]

    monkeypatch.setattr(Judge, "guards", broken)
    loop, wanted, outcome = promoted(challenged)
    assert "is broken" in outcome
    assert "shown its results" not in outcome
    assert loop.releases.challenger_build() is None
    (run, *_), _ = loop.runs.page(1)
    assert {guard["release"] for guard in run.details["guards"].values()} == {wanted.release_id}
    assert all(guard["holds"] for guard in run.details["guards"].values())
    assert not any(guard["holds"] for guard in run.details["next"]["guards"].values())
    page = loop.reports.html(run)
    assert "The next challenger" in page
    assert page.count("<td>broken</td>") == sum(not guard["silent"] for guard in run.details["next"]["guards"].values())
    assert "Broken guard:" not in page, "the promoted model broke none"
    loop.close()


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


def test_nights_without_fresh_evidence_leave_the_challenger_where_it_is(challenged: Settings) -> None:
    loop = ClickLoop(challenged)
    before = state(loop)
    outcome = one_night(loop)
    assert not outcome.startswith(("promoted", "failed")), outcome
    after = state(loop)
    if after["run_id"] == before["run_id"]:
        assert (after["queries"], after["people"]["n"]) == (before["queries"], 0)
        assert after["nights"] == before["nights"] + 1
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


def test_what_a_night_said_of_a_challenger_stands_after_an_interruption(
    challenged: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = open_with_challenger(challenged)
    ask(loop, PEOPLE, likes=True)
    queued = loop.runs.queue("test")

    def killed(*_given: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Promoter, "hand_over", killed)
        patch.setattr(Night, "_clean", lambda *_given: None)  # as after a kill
        with pytest.raises(KeyboardInterrupt):
            loop.run_night(queued.id, lambda _step, _share: None)
    monkeypatch.setattr(Guarded, "holds", False)
    run = loop.run_night(queued.id, lambda _step, _share: None)
    assert run.outcome == "promoted", run.reasons
    loop.close()


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_run_killed_while_it_makes_the_next_challenger_has_promoted(challenged: Settings, when: str) -> None:
    loop = open_with_challenger(challenged)
    wanted = loop.releases.challenger_build()
    assert wanted is not None
    ask(loop, PEOPLE, likes=True)
    loop.runs.queue("test")
    loop.close()
    kill(challenged, "night", when, "mark_ready")
    loop = ClickLoop(challenged)
    run = resume(loop)
    assert run.outcome == "promoted", run.reasons
    assert "shown its results" not in "; ".join(run.reasons)
    live = loop.releases.live()
    assert live is not None
    assert live.id == wanted.id
    assert loop.releases.challenger_build() is None
    until(
        lambda: set(loop.store.names()) == {build.id for build in loop.releases.builds() if build.state != "rejected"}
    )
    loop.close()


def state(loop: ClickLoop) -> dict[str, Any]:
    with loop.database.read() as connection:
        return dict(connection.execute(select(challenger)).one()._mapping)
