"""What people prefer is promoted, once, and the next challenger is followed in the same night."""

from collections import Counter
from dataclasses import replace

import pytest
from jury import PEOPLE, ask, open_with_challenger, state
from kill_at_step import kill
from school import one_night, resume, until
from sqlalchemy import func, select

from clickloop.plugin.loop import ClickLoop
from clickloop.plugin.settings import Settings
from clickloop.retriever.ledger import verify
from clickloop.retriever.schema import challenger, looks, searches, shown
from clickloop.retriever.search import against
from clickloop.retriever.types import Build, Event, Who
from clickloop.trainer import teach as teaching
from clickloop.trainer.contest import Side
from clickloop.trainer.guards import Guarded
from clickloop.trainer.judge import Judge, Tonight
from clickloop.trainer.nightly import Night
from clickloop.trainer.promote import Promoter
from clickloop.trainer.recipe import Mining, Split
from clickloop.trainer.snapshot import cluster_of
from clickloop.trainer.split import draw


def searched(loop: ClickLoop) -> list[str]:
    """All queries of the log."""
    with loop.database.read() as connection:
        return sorted(connection.scalars(select(searches.c.query).distinct()))


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
    assert run.details["challenger"]["lists"]["low"] > 0, "it gains on what they saw, too"
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


def test_people_who_asked_the_same_before_have_no_vote(challenged: Settings) -> None:
    """What they passed over was the champion's."""
    alone = challenged.promotion.model_copy(update={"evaluation_traffic": 0.0})
    before = ClickLoop(challenged.model_copy(update={"promotion": alone}))
    before.start(nights=False)
    before.wait_until_ready()
    ask(before, PEOPLE, likes=True)
    before.close()
    loop = open_with_challenger(challenged)
    ask(loop, PEOPLE, likes=True)
    one_night(loop)
    (run, *_), _ = loop.runs.page(1)
    heard = run.details["challenger"]
    assert (heard["people"]["n"], heard["lists"]["n"]) == (0, 0)
    assert heard["queries"]["n"] > 0
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
