"""The rows of nightly runs, in a real database: one at a time, none forgotten, every decision made once."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, select

from clickloop.retriever.database import Database
from clickloop.retriever.errors import Conflict, NotFound
from clickloop.retriever.ledger import about_run
from clickloop.retriever.pointer import finish_switch
from clickloop.retriever.releases import Releases
from clickloop.retriever.schema import looks
from clickloop.retriever.types import Release
from clickloop.trainer.gate import Challenger, Decision, follow
from clickloop.trainer.recipe import Promotion
from clickloop.trainer.runs import Bounds, Run, Runs, decision_of
from clickloop.trainer.sample import Sample
from clickloop.trainer.votes import Votes

SAMPLE = Sample.of([0.0, 0.1] * 100)
RELEASE = Release("r1", None, 4, "{text}", "", "", 32, "onnx", {}, {}, 1.0)


@pytest.fixture
def runs(database: Database) -> Runs:
    return Runs(database)


@pytest.fixture
def releases(database: Database, tmp_path: Path) -> Releases:
    made = Releases(database, tmp_path / "releases")
    made.record(RELEASE)
    return made


def finished(runs: Runs) -> str:
    run = runs.queue("schedule")
    runs.finish(run.id, "rejected", ["no gain"])
    return run.id


def waiting(runs: Runs, releases: Releases) -> Run:
    """A run whose candidate is ready and waits for an admin."""
    run = runs.queue("schedule")
    runs.start(run.id, Bounds(1, 1))
    runs.update(run.id, build_id=releases.add_build(RELEASE.id).id, reasons=["it is really better"])
    runs.wait_for_approval(run.id)
    return runs.get(run.id)


def decision(look: int, outcome: str = "promoted") -> Decision:
    return Decision(outcome, ("reason",), SAMPLE, look, 2e-4, 1e-5)


def state_of_build(releases: Releases, run: Run) -> str:
    return releases.build(str(run.build_id)).state


def test_a_queued_run_is_found_with_who_asked_for_it(runs: Runs) -> None:
    run = runs.queue("admin key-1")
    assert (run.state, run.outcome, run.reasons, run.requested_by, run.attempts) == (
        "queued",
        None,
        [],
        "admin key-1",
        0,
    )
    assert runs.get(run.id) == runs.unfinished() == run


def test_a_second_run_is_refused_while_one_is_active_and_names_it(runs: Runs, releases: Releases) -> None:
    run = runs.queue("schedule")
    with pytest.raises(Conflict, match=run.id):
        runs.queue("admin")
    runs.start(run.id, Bounds(0, 0))
    with pytest.raises(Conflict, match=run.id):
        runs.queue("admin")
    runs.finish(run.id, "skipped", ["3 training pairs"])
    assert runs.unfinished() is None
    waiting(runs, releases)
    assert runs.queue("admin").state == "queued"


def test_postgresql_lets_one_after_another_look_for_an_active_run(
    database: Database, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite has one writer at a time, and no such statement."""
    asked: list[str] = []

    @event.listens_for(database.engine, "before_cursor_execute", retval=True)
    def _heard(_connection: Any, _cursor: Any, statement: str, values: Any, *_more: Any) -> tuple[str, Any]:
        asked.append(statement)
        return ("SELECT 1" if statement.startswith("LOCK") else statement), values

    monkeypatch.setattr(database, "dialect", "postgresql")
    runs.queue("schedule")
    assert asked[1] == "LOCK TABLE runs IN SHARE ROW EXCLUSIVE MODE", "first in the transaction"


def test_an_unknown_run_is_not_found(runs: Runs) -> None:
    for call in (runs.get, lambda run_id: runs.approve(run_id, "ann"), lambda run_id: runs.reject(run_id, "ann")):
        with pytest.raises(NotFound, match="run-nowhere"):
            call("run-nowhere")
    with pytest.raises(NotFound, match="run-nowhere"):
        runs.page(cursor="run-nowhere")


def test_a_restarted_run_keeps_its_log_and_counts_the_attempt(runs: Runs) -> None:
    run_id = runs.queue("schedule").id
    first = runs.start(run_id, Bounds(10, 20))
    again = runs.start(run_id, Bounds(99, 99))
    assert (first.state, first.log_seq, first.event_seq, first.attempts) == ("running", 10, 20, 1)
    assert (again.state, again.log_seq, again.event_seq, again.attempts) == ("running", 10, 20, 2)
    assert again.started_at == first.started_at


def test_the_bounds_of_an_empty_log_are_kept_too(runs: Runs) -> None:
    run_id = runs.queue("schedule").id
    runs.start(run_id, Bounds(0, 0))
    again = runs.start(run_id, Bounds(5, 5))
    assert (again.log_seq, again.event_seq) == (0, 0)


@pytest.mark.parametrize("outcome", ["skipped", "failed", "awaiting_approval"])
def test_a_run_that_has_ended_does_not_start_again(runs: Runs, releases: Releases, outcome: str) -> None:
    if outcome == "awaiting_approval":
        run_id = waiting(runs, releases).id
    else:
        run_id = runs.queue("schedule").id
        runs.finish(run_id, outcome, ["3 training pairs"])
    ended = runs.get(run_id)
    assert runs.start(run_id, Bounds(1, 1)) == ended == runs.get(run_id)


def test_details_add_up(runs: Runs) -> None:
    run_id = runs.queue("schedule").id
    runs.detail(run_id, mining={"pairs": 3})
    runs.detail(run_id, timings={"judging": 1.5})
    runs.detail(run_id, mining={"pairs": 4})
    assert runs.get(run_id).details == {"mining": {"pairs": 4}, "timings": {"judging": 1.5}}


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 50])
@pytest.mark.parametrize("at_once", [False, True])
def test_pages_list_every_run_once_and_the_newest_first(runs: Runs, limit: int, at_once: bool) -> None:
    made = [finished(runs) for _ in range(7)]
    if at_once:
        for run_id in made:
            runs.update(run_id, created_at=1.0)
    found, cursor = runs.page(limit)
    while cursor is not None:
        page, cursor = runs.page(limit, cursor)
        found += page
    ids = [run.id for run in found]
    assert sorted(ids) == sorted(made)
    assert ids == (sorted(made, reverse=True) if at_once else made[::-1])


def test_no_runs_are_an_empty_page(runs: Runs) -> None:
    assert runs.page() == ([], None)


def test_a_run_that_comes_while_paging_moves_nothing(runs: Runs) -> None:
    made = [finished(runs) for _ in range(4)]
    first, cursor = runs.page(2)
    finished(runs)
    second, _ = runs.page(2, cursor)
    assert [run.id for run in [*first, *second]] == made[::-1]


def test_approving_asks_the_owner_for_the_switch_and_its_answer_ends_the_run(
    database: Database, runs: Runs, releases: Releases
) -> None:
    run = waiting(runs, releases)
    assert (run.state, run.outcome) == ("waiting", "awaiting_approval")
    runs.approve(run.id, "ann")
    wish = releases.wanted()
    assert wish is not None
    assert (wish.build_id, wish.run_id, wish.reason) == (run.build_id, run.id, "promotion")
    with database.write() as connection:
        finish_switch(connection, wish.id)
    done = runs.get(run.id)
    assert (done.state, done.outcome) == ("finished", "promoted")
    assert done.reasons == ["it is really better", "approved by ann"]
    live = releases.live()
    assert live is not None
    assert live.id == run.build_id


def test_a_switch_that_is_refused_ends_the_run_as_rejected_with_the_reason(
    database: Database, runs: Runs, releases: Releases
) -> None:
    run = waiting(runs, releases)
    runs.approve(run.id, "ann")
    wish = releases.wanted()
    assert wish is not None
    with database.write() as connection:
        finish_switch(connection, wish.id, error="the index is gone")
    done = runs.get(run.id)
    assert (done.state, done.outcome, releases.live()) == ("finished", "rejected", None)
    assert "the index is gone" in done.reasons[-1]


def test_rejecting_ends_the_run_and_its_build(runs: Runs, releases: Releases) -> None:
    run = waiting(runs, releases)
    runs.reject(run.id, "ann")
    done = runs.get(run.id)
    assert (done.state, done.outcome, done.reasons[-1]) == ("finished", "rejected", "rejected by ann")
    assert state_of_build(releases, run) == "rejected"
    assert releases.wanted() is None


@pytest.mark.parametrize("second", ["approve", "reject"])
@pytest.mark.parametrize("first", ["approve", "reject", "supersede", "finish"])
def test_nobody_decides_about_a_run_that_no_longer_waits(
    runs: Runs, releases: Releases, first: str, second: str
) -> None:
    run = waiting(runs, releases)
    if first == "supersede":
        runs.supersede("run-later")
    elif first == "finish":
        runs.finish(run.id, "failed", ["no space left"])
    else:
        getattr(runs, first)(run.id, "ann")
    before, wish = runs.get(run.id), releases.wanted()
    with pytest.raises(Conflict, match=run.id):
        getattr(runs, second)(run.id, "bob")
    assert (runs.get(run.id), releases.wanted()) == (before, wish)


@pytest.mark.parametrize("state", ["queued", "running"])
def test_a_run_is_not_approved_before_it_is_decided(runs: Runs, state: str) -> None:
    run = runs.queue("schedule")
    if state == "running":
        runs.start(run.id, Bounds(0, 0))
    with pytest.raises(Conflict, match=state):
        runs.approve(run.id, "ann")


def test_a_newer_candidate_takes_the_place_of_the_one_that_waits(runs: Runs, releases: Releases) -> None:
    older = waiting(runs, releases)
    newer = waiting(runs, releases)
    done = runs.get(older.id)
    assert (done.state, done.outcome) == ("finished", "rejected")
    assert done.reasons[-1] == f"superseded by {newer.id}"
    assert state_of_build(releases, older) == "rejected"
    assert (newer.state, state_of_build(releases, newer)) == ("waiting", "building")
    with pytest.raises(Conflict, match="superseded"):
        runs.approve(older.id, "ann")
    runs.approve(newer.id, "ann")


def test_superseding_leaves_finished_runs_alone(runs: Runs, releases: Releases) -> None:
    done = runs.get(finished(runs))
    waiting(runs, releases)
    assert runs.get(done.id) == done


def test_what_was_approved_goes_live_although_a_newer_candidate_waits(runs: Runs, releases: Releases) -> None:
    """The owner was away between the approval and the next night."""
    older = waiting(runs, releases)
    runs.approve(older.id, "ann")
    waiting(runs, releases)
    wish = releases.wanted()
    goes_live = wish is not None and wish.run_id == older.id
    ended = runs.get(older.id).outcome == "rejected"
    assert goes_live != ended


def test_a_decision_spends_one_look_also_when_it_is_written_again(database: Database, runs: Runs) -> None:
    run_id = runs.queue("schedule").id
    for _ in range(2):
        runs.decided(run_id, decision(look=1), first=True)
    with database.read() as connection:
        rows = connection.execute(select(looks.c.k, looks.c.run_id, looks.c.promoted)).all()
    assert [tuple(row) for row in rows] == [(1, run_id, True)]
    assert runs.get(run_id).reasons == ["reason"]


@pytest.mark.parametrize("found", [decision(look=3), decision(look=0, outcome="rejected")])
def test_a_first_decision_stays_with_the_run_as_it_was(runs: Runs, found: Decision) -> None:
    run_id = finished(runs)
    runs.decided(run_id, decision(look=2), first=False, candidate="challenger")
    assert "decided" not in runs.get(run_id).details
    runs.decided(run_id, found, first=True, champion="r1", candidate="r2")
    decided = runs.get(run_id).details["decided"]
    assert (decided["champion"], decided["candidate"], decision_of(decided)) == ("r1", "r2", found)


@pytest.mark.parametrize(("votes", "by", "n"), [([1] * 80 + [-1] * 20, "people", 100), ([], "queries", 200)])
def test_the_ledger_says_whose_evidence_decided(
    database: Database, runs: Runs, votes: list[int], by: str, n: int
) -> None:
    run_id = runs.queue("schedule").id
    found = follow(Challenger(1, 2, Sample.of([0.05, -0.05] * 100), Votes.of(len(votes), votes)), Promotion())
    runs.decided(run_id, found, first=False, candidate="r2")
    (told,) = about_run(database, run_id)
    assert (told["by"], told["n"]) == (by, n)


def test_a_first_decision_of_an_older_version_was_by_queries(runs: Runs) -> None:
    run_id = finished(runs)
    runs.decided(run_id, decision(look=1), first=True)
    decided = runs.get(run_id).details["decided"]
    del decided["decision"]["by"]
    assert decision_of(decided) == decision(look=1)


def test_a_run_that_decides_anew_never_spent_less(database: Database, runs: Runs) -> None:
    seen, unseen = decision(1), replace(decision(1), level=0.0, p_value=1.0)
    first, second = finished(runs), finished(runs)
    for run_id, decisions in ((first, (seen, unseen)), (second, (unseen, seen))):
        for found in decisions:
            runs.decided(run_id, replace(found, look=runs.looks_before(run_id) + 1), first=True)
        assert runs.looked(run_id)
    third = finished(runs)
    runs.decided(third, replace(unseen, look=3), first=True)
    assert not runs.looked(third)
    with database.read() as connection:
        levels = connection.scalars(select(looks.c.level).order_by(looks.c.k)).all()
    assert levels == [2e-4, 2e-4, 0.0]


def test_a_decision_without_a_look_spends_none(runs: Runs) -> None:
    run_id = finished(runs)
    runs.decided(run_id, decision(look=0, outcome="not_enough_evidence"), first=True)
    assert runs.looks_before("any other run") == 0


def test_only_the_looks_of_other_runs_came_before(runs: Runs) -> None:
    """So that a night that crashed after its decision comes to the same decision again."""
    made = [finished(runs) for _ in range(3)]
    for run_id in made[:2]:
        runs.decided(run_id, decision(look=runs.looks_before(run_id) + 1, outcome="rejected"), first=True)
    assert [runs.looks_before(run_id) for run_id in made] == [1, 1, 2]
