"""Which build answers, which can be gone back to, and which promotions come too late."""

from pathlib import Path

import pytest

from clickloop.retriever.database import Database
from clickloop.retriever.edge import EdgeStore
from clickloop.retriever.errors import Conflict, NotFound
from clickloop.retriever.ledger import entries, moves
from clickloop.retriever.pointer import finish_switch, set_build
from clickloop.retriever.releases import Releases, drop_half_made
from clickloop.retriever.schema import releases as table
from clickloop.retriever.schema import runs
from clickloop.retriever.types import Release


@pytest.fixture
def releases(database: Database, tmp_path: Path) -> Releases:
    return Releases(database, tmp_path / "releases")


def build(releases: Releases, database: Database, name: str) -> str:
    """Ready to go live, of a release of its own."""
    with database.write() as connection:
        connection.execute(table.insert(), {"id": f"release-{name}", "created_at": 1.0})
    made = releases.add_build(f"release-{name}", f"build-{name}").id
    with database.write() as connection:
        set_build(connection, made, state="ready")
    return made


def switch(
    releases: Releases, database: Database, build_id: str, reason: str = "rollback", run: str | None = None
) -> None:
    number = releases.request_switch(build_id, reason, "test", run)
    with database.write() as connection:
        finish_switch(connection, number)


def compared(database: Database, run_id: str, champion: str) -> None:
    row = {"id": run_id, "state": "running", "step": "", "progress": 0.0, "reasons": [], "requested_by": "test"}
    details = {"lineage": {"champion": champion}}
    with database.write() as connection:
        connection.execute(runs.insert(), {**row, "created_at": 1.0, "attempts": 1, "details": details})


def test_the_build_that_was_live_last_is_the_first_to_go_back_to(releases: Releases, database: Database) -> None:
    """A, B and C were promoted one after the other; an admin went back to A, and then D came."""
    names = [build(releases, database, name) for name in "ABCD"]
    for name in (*names[:3], names[0], names[3]):
        switch(releases, database, name)
    assert [one.id for one in releases.retired()] == ["build-A", "build-C", "build-B"]
    assert releases.former() == "release-A"


def test_going_back_follows_the_order_of_switches_where_the_clock_was_set_back(
    releases: Releases, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock was ahead while B went live."""
    for name, at in (("A", 100.0), ("B", 1000.0), ("C", 200.0), ("D", 300.0)):
        monkeypatch.setattr("time.time", lambda at=at: at)
        switch(releases, database, build(releases, database, name))
    assert [one.id for one in releases.retired()] == ["build-C", "build-B", "build-A"]
    assert releases.former() == "release-C"


def test_a_rollback_to_what_is_live_already_is_refused(releases: Releases, database: Database) -> None:
    first, second = build(releases, database, "A"), build(releases, database, "B")
    for name in (first, second):
        switch(releases, database, name)
    with pytest.raises(Conflict, match="release-B is live already"):
        releases.request_switch(second, "rollback", "test")
    assert releases.former() == "release-A"
    assert releases.newest_build("release-B").id == second


def test_of_two_rollbacks_to_one_release_the_second_is_refused(releases: Releases, database: Database) -> None:
    first, second = build(releases, database, "A"), build(releases, database, "B")
    switch(releases, database, first)
    releases.request_switch(second, "rollback", "test")
    with pytest.raises(Conflict, match="release-B is asked for already"):
        releases.request_switch(second, "rollback", "test")
    back = releases.request_switch(first, "rollback", "test")  # granted after the first wish, so no refusal
    again = releases.request_switch(second, "rollback", "test")
    with database.write() as connection:
        finish_switch(connection, again - 2)
        finish_switch(connection, back, error="the model is damaged")
    with pytest.raises(Conflict, match="release-B is live already"), database.write() as connection:
        finish_switch(connection, again)
    assert [move["build"] for move in moves(entries(database))] == [first, second]
    assert [kept.id for kept in releases.retired()] == [first]


def test_what_a_kill_left_of_a_release_is_removed_and_one_without_its_files_is_not(
    releases: Releases, tmp_path: Path
) -> None:
    finished = Release("release-whole", None, 8, "{text}", "", "", 32, "onnx", {}, {}, 1.0)
    releases.record(finished)
    for name in ("release-whole", "release-half", "lost+found"):
        releases.folder(name).mkdir(parents=True)
        (releases.folder(name) / "encoder.onnx").write_bytes(b"some of it")
    drop_half_made(releases, EdgeStore(tmp_path / "builds", {}))
    assert not releases.folder("release-half").exists()
    assert releases.folder("release-whole").exists()
    assert releases.folder("lost+found").exists(), "not ours"


def test_only_what_was_live_can_be_gone_back_to(releases: Releases, database: Database) -> None:
    """What waits for an approval, or is shown to some people only, has to pass the gate."""
    switch(releases, database, build(releases, database, "A"))
    build(releases, database, "waiting")
    assert releases.newest_build("release-A").id == "build-A"
    with pytest.raises(NotFound):
        releases.newest_build("release-waiting")
    with pytest.raises(NotFound):
        releases.former()


def test_a_candidate_is_promoted_over_the_champion_it_won_against_only(releases: Releases, database: Database) -> None:
    first, second, candidate = (build(releases, database, name) for name in ("A", "B", "new"))
    switch(releases, database, first)
    compared(database, "run-1", "release-A")
    switch(releases, database, second)
    with pytest.raises(Conflict, match=r"superseded.*release-A.*release-B"):
        switch(releases, database, candidate, "promotion", "run-1")
    live = releases.live()
    assert live is not None
    assert live.id == second
    switch(releases, database, first)
    switch(releases, database, candidate, "promotion", "run-1")
    live = releases.live()
    assert live is not None
    assert live.id == candidate
