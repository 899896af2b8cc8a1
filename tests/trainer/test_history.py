"""What nights keep of the log: the same, however the log was cut into nights, and whatever killed one of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import null

from clickloop.retriever.database import Database
from clickloop.retriever.explore import EXPLORATION
from clickloop.retriever.schema import events, searches, shown
from clickloop.trainer import history as module
from clickloop.trainer import segments
from clickloop.trainer.history import MAX_SEARCHES, History
from clickloop.trainer.recipe import Mining, Recipe, Split
from clickloop.trainer.robots import Robots
from clickloop.trainer.snapshot import EVERYTHING, bounds_now, cluster_of
from clickloop.trainer.split import DEVELOPMENT, HOLDOUT, TRAINING, draw, number
from clickloop.trainer.tally import judging

TABLES = ("tallies", "visits", "closed", "people", "wordings", "documents", "filters")
BOTH = Split().holdout + Split().development
TEXTS = [f"question {number}" for number in range(99)]
DEVELOPED = next(text for text in TEXTS if Split().holdout < draw(cluster_of(text)) < BOTH)
QUERIES = (DEVELOPED, "sort a map", "Sort  maps", "split a string", "join lists", "open a file")
Table = list[tuple[Any, ...]]


class Log:
    """Writes the log of a new database."""

    def __init__(self, path: Path) -> None:
        self.database = Database(f"sqlite:///{path}")
        self._searches = self._events = 0

    def search(
        self,
        person: str,
        query: str,
        ids: list[str],
        release: str = "r1",
        explored: int | None = None,
        filter: dict[str, Any] | None = None,
    ) -> int:
        self._searches += 1
        row = {
            "query_id": f"q{self._searches}",
            "query": query,
            "k": 10,
            "filter": null() if filter is None else filter,
            "build_id": "b1",
            "release_id": release,
            "took_ms": 1.0,
            "arrived_at": 100.0,
            "client_id": person,
        }
        results = [
            {
                "search_seq": self._searches,
                "rank": rank,
                "document_id": id_,
                "ranker": EXPLORATION if rank == explored else "semantic",
                "propensity": 1.0,
            }
            for rank, id_ in enumerate(ids, 1)
        ]
        with self.database.write() as connection:
            connection.execute(searches.insert(), row)
            connection.execute(shown.insert(), results)
        return self._searches

    def click(self, search: int, document_id: str, action: str = "click") -> None:
        self._events += 1
        row = {
            "event_id": f"e{self._events}",
            "query_id": f"q{search}",
            "query_known": True,
            "action": action,
            "document_id": document_id,
            "arrived_at": 100.0,
        }
        with self.database.write() as connection:
            connection.execute(events.insert(), row)

    def history(self, folder: Path, recipe: Recipe | None = None) -> History:
        """As a night leaves it."""
        made = History(folder, self.database, recipe or Recipe())
        made.advance(bounds_now(self.database))
        return made


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path / "clickloop.db")


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Log]:
    """As many as an example of a property needs, each in a folder of its own."""
    return lambda: Log(tmp_path_factory.mktemp("log") / "clickloop.db")


def kept(history: History) -> dict[str, Table]:
    """All that is known, in a fixed order and with each row once."""
    found = {}
    for table in TABLES:
        rows = module.MERGES[table](history._kept.scan(table).collect())
        found[table] = sorted(rows.select(module.SCHEMAS[table].names()).rows(), key=repr)  # with nulls
    return found


def views(history: History) -> dict[tuple[str, int, int], tuple[int, int]]:
    """(document, rank, gap) → (views, clicks), over all else."""
    tallies = history.named(history._kept.scan("tallies").collect())
    sums = tallies.group_by("document_id", "rank", "gap").agg(pl.col("views", "clicks").sum())
    return {row[:3]: row[3:] for row in sums.rows() if row[3:] != (0, 0)}


people, queries = st.sampled_from(["ann", "ben", "cid"]), st.sampled_from(QUERIES)
pages = st.lists(st.sampled_from("abcdef"), min_size=1, max_size=4, unique=True)
releases, explored = st.sampled_from(["r1", "r2"]), st.none() | st.integers(1, 4)
filters = st.sampled_from([None, None, {"tenant": 1}, {"tenant": 2}])
visits = st.tuples(st.just("search"), people, queries, pages, releases, explored, filters)
clicks = st.tuples(
    st.just("click"),
    st.integers(0, 30),
    st.sampled_from("abcdef"),
    st.sampled_from(["click", "add_to_cart", "purchase"]),
)
nights = st.just(("night",))


@settings(max_examples=40)
@given(st.lists(visits | clicks | nights, max_size=30))
def test_night_by_night_and_in_one_go_are_the_same(logs: Callable[[], Log], steps: list[tuple[Any, ...]]) -> None:
    log, made = logs(), 0
    folder = Path(str(log.database.engine.url.database)).parent
    for kind, *what in steps:
        if kind == "night":
            log.history(folder / "nights")
        elif kind == "search":
            made = log.search(*what)
        elif what[0] < made:
            log.click(what[0] + 1, *what[1:])
    assert kept(log.history(folder / "nights")) == kept(log.history(folder / "one go"))
    log.database.close()


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


def test_a_night_killed_before_the_metadata_was_written_does_it_again(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = log.search("ann", "sort a map", ["a", "b"])
    log.history(tmp_path / "h")
    log.click(first, "b")
    log.search("ben", "sort a map", ["a", "c"])

    def killed(_path: Path, _content: bytes) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(segments, "write_whole", killed)
        with pytest.raises(KeyboardInterrupt):
            log.history(tmp_path / "h")
    again = log.history(tmp_path / "h")
    assert kept(again) == kept(log.history(tmp_path / "one go"))
    folders = {path.name for path in (tmp_path / "h").iterdir() if path.is_dir()}
    assert folders == set(again._kept._rows), "nothing is left over"


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(split=Split(holdout=0.6)),
        Recipe(split=Split(development=0.4)),
        Recipe(mining=Mining(max_searches_per_person=1)),
    ],
)
def test_other_settings_of_the_split_and_of_robots_make_it_anew(recipe: Recipe, log: Log, tmp_path: Path) -> None:
    for number_ in range(20):
        log.click(log.search(f"p{number_ % 15}", f"query {number_}", ["a", "b"]), "a")
    before = kept(log.history(tmp_path / "h"))
    changed = log.history(tmp_path / "h", recipe)
    assert kept(changed) == kept(log.history(tmp_path / "fresh", recipe)) != before


def test_another_format_makes_it_anew(log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log.search("ann", "sort a map", ["a", "b"])
    log.history(tmp_path / "h")
    monkeypatch.setattr(module, "MAX_SEARCHES", 1)
    monkeypatch.setattr(module, "FORMAT", module.FORMAT + 1)
    log.search("ann", "sort a map", ["a"])
    assert len(kept(log.history(tmp_path / "h"))["visits"]) == 1


def test_a_database_that_was_restored_or_replaced_makes_it_anew(
    log: Log, tmp_path: Path, logs: Callable[[], Log]
) -> None:
    for number_ in range(3):
        log.search("ann", f"query {number_}", ["a"])
    log.history(tmp_path / "h")
    for made in (1, 3):
        other = logs()
        with other.database.write() as connection:
            connection.exec_driver_sql("UPDATE sqlite_sequence SET seq = 0")
        other._searches = 0
        for number_ in range(made):
            other.search("ben", f"another {number_}", ["b"])
        with other.database.write() as connection:
            connection.exec_driver_sql("UPDATE searches SET query_id = 'other' || query_id")
        assert kept(other.history(tmp_path / "h")) == kept(other.history(tmp_path / f"fresh {made}"))


def test_a_long_log_is_read_in_blocks_and_reported_as_one_night(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number_ in range(20):
        log.click(log.search(f"p{number_}", f"query {number_}", ["a", "b"]), "b")
    whole = log.history(tmp_path / "one go")
    monkeypatch.setattr(module, "BLOCK", 3)
    parts = log.history(tmp_path / "h")
    assert kept(parts) == kept(whole)
    assert parts.night == whole.night
    assert (parts.night["searches"], parts.night["clicks"], parts.night["people"]) == (20, 20, 20)


def test_few_segments_hold_many_nights(log: Log, tmp_path: Path) -> None:
    for night in range(40):
        log.search(f"p{night}", f"query {night}", ["a", "b"])
        history = log.history(tmp_path / "h")
        assert len(history._kept._rows) <= 1 + (night + 1).bit_length()


def test_a_night_without_anything_new_changes_nothing(log: Log, tmp_path: Path) -> None:
    empty = log.history(tmp_path / "h")
    assert all(rows == [] for rows in kept(empty).values())
    assert empty.liked().is_empty()
    log.click(log.search("ann", "sort a map", ["a", "b"]), "a")
    before = log.history(tmp_path / "h")
    files = sorted(str(path) for path in (tmp_path / "h").rglob("*"))
    after = log.history(tmp_path / "h")
    assert (kept(after), after.sha256, after.night) == (kept(before), before.sha256, before.night)
    assert sorted(str(path) for path in (tmp_path / "h").rglob("*")) == files


def test_pairs_are_found_with_all_that_people_did_with_them(log: Log, tmp_path: Path) -> None:
    text = next(text for text in (f"query {n}" for n in range(20)) if draw(cluster_of(text)) > 0.5)
    for person, release in (("ann", "r1"), ("ben", "r2"), ("cid", "r2")):
        search = log.search(person, text.upper(), ["a", "b", "c"], release)
        if person != "cid":
            log.click(search, "b")
        history = log.history(tmp_path / "h")
    liked = history.liked()
    assert liked.select("part", "clicks").rows() == [(TRAINING, 2)]
    seen = history.seen(liked)
    assert seen.select("query", "text", "document_id").unique().rows() == [(text, text.upper(), "b")]
    assert (seen["views"].sum(), seen["clicks"].sum()) == (3, 2)
    assert set(seen["release"]) == {number("r1"), number("r2")}


def test_the_newest_and_the_later_searches_are_read_as_they_were(log: Log, tmp_path: Path) -> None:
    for number_ in range(5):
        log.click(log.search(f"p{number_}", f"query {number_}", ["a", "b"]), "b")
    history = log.history(tmp_path / "h")
    log.click(log.search("later", "query 9", ["a"]), "a")
    assert history.newest(2)["search"].to_list() == [4, 4, 5, 5]
    assert history.since(3).select("search", "document_id", "clicked").rows() == [
        (4, "a", False),
        (4, "b", True),
        (5, "a", False),
        (5, "b", True),
    ]
    assert history.since(5).is_empty()
    assert set(history.clusters(until=2)) == {number(cluster_of(f"query {n}")) for n in range(2)}
