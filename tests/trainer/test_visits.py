"""What counts of a person's searches for one query: once, where they clicked, and where it may judge."""

from pathlib import Path

import polars as pl
import pytest
from logbook import BOTH, DEVELOPED, Log

from clickloop.trainer import history as module
from clickloop.trainer.history import MAX_SEARCHES, History
from clickloop.trainer.recipe import Split
from clickloop.trainer.robots import Robots
from clickloop.trainer.snapshot import EVERYTHING, cluster_of
from clickloop.trainer.split import DEVELOPMENT, HOLDOUT, TRAINING, draw
from clickloop.trainer.tally import judging


def views(history: History) -> dict[tuple[str, int, int], tuple[int, int]]:
    """(document, rank, gap) → (views, clicks), over all else."""
    tallies = history.named(history._kept.scan("tallies").collect())
    sums = tallies.group_by("document_id", "rank", "gap").agg(pl.col("views", "clicks").sum())
    return {row[:3]: row[3:] for row in sums.rows() if row[3:] != (0, 0)}


def test_a_late_click_counts_as_if_it_had_come_in_time(log: Log, tmp_path: Path) -> None:
    first = log.search("ann", "sort a map", ["a", "b", "c"])
    log.search("ben", "sort a map", ["a", "b", "c"])
    assert views(log.history(tmp_path / "h")) == {("a", 1, 0): (2, 0), ("b", 2, 0): (2, 0), ("c", 3, 0): (2, 0)}
    log.click(first, "b")
    expected = {("a", 1, 0): (2, 0), ("b", 2, 0): (2, 1), ("c", 3, 0): (1, 0), ("c", 3, 1): (1, 0)}
    assert views(log.history(tmp_path / "h")) == expected


def test_late_clicks_of_robots_are_not_counted(log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They search before a night and click after it."""

    def told_by_a_click(found: pl.DataFrame, _most: int) -> tuple[pl.DataFrame, Robots]:
        robots = found.filter(pl.col("clicked") & (pl.col("document_id") == "pushed"))["person"].unique()
        return found.filter(~pl.col("person").is_in(robots.implode())), Robots(len(robots), 0, ["pushed"])

    monkeypatch.setattr(module, "without_robots", told_by_a_click)
    paid, honest = (log.search(person, "sort a map", ["a", "pushed"]) for person in ("farm", "ann"))
    log.history(tmp_path / "h")
    log.click(paid, "pushed")
    log.click(honest, "a")
    history = log.history(tmp_path / "h")
    assert {key[0]: clicks for key, (_, clicks) in views(history).items() if clicks} == {"a": 1}
    assert (history.night["robots_left_out"], history.night["pushed_document_ids"]) == (1, ["pushed"])


def test_a_refused_late_click_stays_refused_whatever_comes_after_it(log: Log, tmp_path: Path) -> None:
    """A list of which everything was clicked is a robot's; here the last click comes a night later."""
    page = ["a", "b", "c", "d", "e"]
    first = log.search("ann", "sort a map", page)
    for id_ in page[:-1]:
        log.click(first, id_)
    before = views(log.history(tmp_path / "h"))
    assert before["e", 5, 1] == (1, 0)
    log.click(first, "e")
    log.click(log.search("ann", "sort a map", page), "a")  # in the same night
    assert views(log.history(tmp_path / "h")) == before
    log.click(log.search("ann", "sort a map", ["e", "a"]), "e")  # and in a later one
    history = log.history(tmp_path / "h")
    assert views(history) == before
    log.click(log.search("ben", "sort a map", page), "a")
    assert views(log.history(tmp_path / "h"))["a", 1, 0] == (2, 2), "others count on"


def test_a_person_who_comes_back_counts_once_and_where_they_clicked(log: Log, tmp_path: Path) -> None:
    for night in range(3):
        search = log.search("ann", "sort a map", ["b", "a"] if night else ["a", "b"])
        log.history(tmp_path / "h")
    log.click(search, "a")
    assert views(log.history(tmp_path / "h")) == {("a", 2, 0): (1, 1), ("b", 1, 0): (1, 0)}
    for _ in range(MAX_SEARCHES):
        last = log.search("ann", "sort a map", ["c"])
        log.history(tmp_path / "h")
    log.click(last, "c")
    assert views(log.history(tmp_path / "h"))["c", 1, 0] == (1, 0), "nor do more searches than count add anything"


def test_what_was_asked_of_another_release_is_another_visit(log: Log, tmp_path: Path) -> None:
    log.search("ann", DEVELOPED, ["a"], "r1")
    log.search("ann", DEVELOPED, ["a"], "r2")
    history = log.history(tmp_path / "h")
    assert views(history) == {("a", 1, 0): (2, 0)}
    assert {len(history.answered(DEVELOPMENT, release)) for release in ("r1", "r2")} == {1}
    assert history.answered(DEVELOPMENT, "r3").is_empty()


def test_searches_that_explored_do_not_judge(log: Log, tmp_path: Path) -> None:
    log.search("ann", DEVELOPED.upper(), ["a", "b"], explored=2)
    log.search("ben", DEVELOPED.upper(), ["a", "c"])
    found = log.history(tmp_path / "h").answered(DEVELOPMENT, "r1")
    assert sorted(found.select("query", "text", "document_id", "views", "best").rows()) == [
        (DEVELOPED, DEVELOPED.upper(), "a", 1, 1),
        (DEVELOPED, DEVELOPED.upper(), "c", 1, 2),
    ]


def test_people_judge_within_the_filter_that_they_asked_with_first(log: Log, tmp_path: Path) -> None:
    """Whoever asks again within another one was not content with what they had found; it teaches all the same."""
    log.search("ann", DEVELOPED, ["c", "d"], filter={"tenant": 3})
    night = log.search("ben", DEVELOPED, ["a", "b"])
    history = log.history(tmp_path / "h")
    again = log.search("ann", DEVELOPED, ["a", "b"])
    log.click(again, "b")
    log.search("ann", DEVELOPED, ["d", "c"], filter={"tenant": 3})
    log.search("cid", DEVELOPED, ["b"], filter={"tenant": 4})
    history = log.history(tmp_path / "h")
    judged = history.answered(DEVELOPMENT, "r1").select("within", "document_id", "rank", "views").sort(pl.all())
    third, fourth = '{"tenant":3}', '{"tenant":4}'
    assert judged.rows() == [
        (EVERYTHING, "a", 1, 1),
        (EVERYTHING, "b", 2, 1),
        (third, "c", 1, 1),
        (third, "d", 1, 1),
        (fourth, "b", 1, 1),
    ]
    assert set(history.named(history.liked())["document_id"]) == {"b"}
    later = history.since(night).select("person", "document_id", "within")
    assert later.rows() == [
        ("ann", "a", None),
        ("ann", "b", None),
        ("ann", "d", third),
        ("ann", "c", third),
        ("cid", "b", fourth),
    ]
    assert judging(history.since(night), by=("release",)).equals(history.since(night)), "said again it is the same"
    assert dict(history.since(night).select("person", "first").unique().rows()) == {"ann": False, "cid": True}


@pytest.mark.parametrize(("query", "times"), [("sort a map", 1), (DEVELOPED, 2)])
def test_nobody_gains_weight_by_changing_filters(query: str, times: int, log: Log, tmp_path: Path) -> None:
    """Where it judges they count once there, and once for all other filters."""
    for tenant in range(5):
        log.click(log.search("ann", query, ["a"], filter={"tenant": tenant}), "a")
    history = log.history(tmp_path / "h")
    assert history.seen(history.liked())["clicks"].sum() == times
    assert len(history._kept.scan("tallies").collect()) == times


def test_who_judged_first_never_teaches_in_a_later_night(log: Log, tmp_path: Path) -> None:
    texts = [f"query {number}" for number in range(60)]
    held = next(text for text in texts if draw(cluster_of(text)) < Split().holdout)
    taught = next(text for text in texts if Split().holdout < draw(cluster_of(text)) < BOTH)
    for person, order in (("judge", (held, taught)), ("learner", (taught, held))):
        for text in order:
            log.search(person, text, ["a"])
            history = log.history(tmp_path / "h")
    found = [history.answered(part, "r1") for part in (TRAINING, DEVELOPMENT, HOLDOUT)]
    assert [part.select("query", "views").rows() for part in found] == [[], [(taught, 1)], [(held, 1)]]
