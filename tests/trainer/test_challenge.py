"""The challenger's state, and what people prefer."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from clickloop.retriever.database import Database
from clickloop.retriever.releases import Releases
from clickloop.retriever.schema import releases
from clickloop.trainer.challenge import Challengers, Followed
from clickloop.trainer.evaluate import Unit
from clickloop.trainer.gate import Challenger
from clickloop.trainer.sample import Sample
from clickloop.trainer.votes import Vote, Votes

MODEL, CHAMPION = "release-new", "release-champion"


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(f"sqlite:///{tmp_path / 'clickloop.db'}")
    with made.write() as connection:
        for id_ in (MODEL, CHAMPION, "release-newer"):
            connection.execute(releases.insert(), {"id": id_, "created_at": 1.0})
    yield made
    made.close()


@pytest.fixture
def challengers(database: Database) -> Challengers:
    return Challengers(database)


def followed(run_id: str = "run-1", build_id: str | None = None) -> Followed:
    state = Challenger(3, 2, Sample.of([0.1, -0.2, 0.3]), Votes.of(2, [1]), looked=False, lists=Sample())
    return Followed(run_id, MODEL, build_id, run_id, 70, state)


def test_the_state_comes_back_as_it_was_kept(challengers: Challengers) -> None:
    assert challengers.of(CHAMPION) is None
    challengers.keep(followed(), CHAMPION, {"query a"})
    assert challengers.of(CHAMPION) == followed()
    assert challengers.any() == MODEL


def test_a_challenger_of_a_former_champion_is_none(challengers: Challengers) -> None:
    challengers.keep(followed(), CHAMPION, set())
    assert challengers.of("release-newer") is None


def test_nothing_counts_twice_about_one_challenger(challengers: Challengers) -> None:
    challengers.keep(followed(), CHAMPION, {"query a", "person b"})
    assert challengers.fresh("run-1", {"query a", "query b", "person a", "person b"}) == {"query b", "person a"}
    assert challengers.keep(replace(followed(), judged_by="run-2", log_seq=90), CHAMPION, {"query b"})
    assert challengers.fresh("run-1", {"query a", "query b"}) == set()


def test_votes_about_one_query_are_added_up_night_after_night(challengers: Challengers) -> None:
    """Those of before it was written down what they are about, one here, count as if they were about one query."""
    first = {"person a": Vote(1, "1"), "person b": Vote(1, "1"), "person c": Vote(-1, "2"), "person d": Vote(0, "3")}
    told = challengers.votes_with(followed(), first.values())
    assert told == Votes.of(6, [1, 2, -1])
    now = replace(followed(), state=replace(followed().state, people=told))
    challengers.keep(now, CHAMPION, {*first, "query 1"}, first)
    assert challengers.votes_with(now, []) == told
    assert challengers.votes_with(now, [Vote(1, "1"), Vote(1, "9")]) == Votes.of(8, [1, 3, -1, 1])


def test_what_the_lists_say_of_a_query_is_a_mean_over_its_nights(challengers: Challengers) -> None:
    one, two = Unit(1, 0.4, 0.01, 0.001, 2.0), Unit(1, -0.2, 0.03, 0.0, 1.0)
    challengers.keep(followed(), CHAMPION, set(), seen=challengers.lists_with(followed(), {"a": one, "b": one}))
    seen = challengers.lists_with(followed(), {"b": two, "c": two})
    challengers.keep(replace(followed(), judged_by="run-2"), CHAMPION, set(), seen=seen)
    present = challengers.of(CHAMPION)
    assert present is not None
    lists = present.state.lists
    assert lists is not None
    assert (lists.n, lists.total) == (3, pytest.approx(0.4 + (0.4 - 0.2) / 2 - 0.2))
    assert lists.variance == pytest.approx(0.01 + 0.04 / 4 + 0.03)
    assert lists.third == pytest.approx(0.001 + 0.001 / 8)
    assert lists.loss_squares == pytest.approx(4 + 1 + 1), "2, 2 / 2 and 1"
    challengers.drop()
    challengers.keep(followed(), CHAMPION, set())
    assert challengers.of(CHAMPION) == followed(), "nothing of it is left"


def test_another_challenger_takes_the_place_and_its_index_is_given_up(
    challengers: Challengers, database: Database, tmp_path: Path
) -> None:
    builds = Releases(database, tmp_path)
    build = builds.add_build(MODEL)
    challengers.keep(followed(build_id=build.id), CHAMPION, {"query a"})
    challengers.keep(replace(followed("run-9"), release_id="release-newer"), CHAMPION, {"query b"})
    present = challengers.of(CHAMPION)
    assert present is not None
    assert present.run_id == "run-9"
    assert builds.build(build.id).state == "rejected"
    assert challengers.fresh("run-9", {"query a", "query b"}) == {"query a"}


@pytest.mark.parametrize("newer", [False, True], ids=["", "and another one is followed"])
def test_a_challenger_that_ended_during_a_night_is_not_brought_back(challengers: Challengers, newer: bool) -> None:
    challengers.keep(followed(), CHAMPION, {"query a"})
    challengers.drop()
    if newer:
        challengers.keep(followed("run-9"), CHAMPION, set())
    present = challengers.of(CHAMPION)
    assert not challengers.keep(replace(followed(), judged_by="run-10"), CHAMPION, {"query b"})
    assert challengers.of(CHAMPION) == present
    assert challengers.fresh("run-1", {"query a", "query b"}) == {"query a", "query b"}


def test_a_dropped_challenger_leaves_nothing(challengers: Challengers) -> None:
    challengers.keep(followed(), CHAMPION, {"query a"})
    challengers.drop()
    challengers.drop()
    assert (challengers.of(CHAMPION), challengers.any()) == (None, None)


def test_a_challenger_that_an_admin_decides_on_keeps_its_index(
    challengers: Challengers, database: Database, tmp_path: Path
) -> None:
    builds = Releases(database, tmp_path)
    build = builds.add_build(MODEL)
    challengers.keep(followed(build_id=build.id), CHAMPION, set())
    challengers.leave("release-newer")
    assert challengers.any() == MODEL
    challengers.leave(MODEL)
    assert challengers.any() is None
    assert builds.build(build.id).state == "building"
