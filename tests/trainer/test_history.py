"""What nights keep of the log: the same, however the log was cut into nights, and whatever killed one of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from logbook import DEVELOPED, Log

from clickloop.trainer import history as module
from clickloop.trainer import segments
from clickloop.trainer import split as roles
from clickloop.trainer.history import History
from clickloop.trainer.recipe import Mining, Recipe, Split
from clickloop.trainer.snapshot import bounds_now, cluster_of
from clickloop.trainer.split import TRAINING, draw, number

TABLES = ("tallies", "visits", "closed", "people", "wordings", "documents", "filters")
QUERIES = (DEVELOPED, "sort a map", "Sort  maps", "split a string", "join lists", "open a file")
Table = list[tuple[Any, ...]]


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


@settings(max_examples=20)
@given(st.lists(st.tuples(st.integers(0, 11), st.sampled_from(QUERIES[:3])) | st.none(), max_size=30))
def test_roles_of_people_who_begin_alike_are_the_same_night_by_night_and_stay(
    logs: Callable[[], Log], steps: list[tuple[int, str] | None]
) -> None:
    log, known = logs(), dict[Any, Any]()
    folder = Path(str(log.database.engine.url.database)).parent
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(roles, "MANY", 2)
        for step in [*steps, None]:
            if step is not None:
                log.search(f"client {step[0]}", step[1], ["a"])
                continue
            now = {person: rest for person, *rest in kept(log.history(folder / "nights"))["people"]}
            assert known.items() <= now.items()
            known = now
        assert kept(log.history(folder / "nights")) == kept(log.history(folder / "one go"))
    log.database.close()


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


@pytest.mark.parametrize(("bound", "value"), [("BLOCK", 3), ("BLOCK_RESULTS", 1), ("BLOCK_RESULTS", 5)])
def test_a_long_log_is_read_in_blocks_and_reported_as_one_night(
    bound: str, value: int, log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number_ in range(20):
        log.click(log.search(f"p{number_}", f"query {number_}", ["a", "b"]), "b")
    log.click(99, "a")
    whole = log.history(tmp_path / "one go")
    monkeypatch.setattr(module, bound, value)
    shares = list[float]()
    History(tmp_path / "h", log.database, Recipe()).advance(bounds_now(log.database), shares.append)
    assert len(shares) >= 7
    assert shares == sorted(set(shares))
    parts = log.history(tmp_path / "h")
    assert kept(parts) == kept(whole)
    assert parts.night == whole.night
    assert (parts.night["searches"], parts.night["clicks"], parts.night["people"]) == (20, 20, 20)
    assert (parts.night["clicks_received"], parts.night["clicks_of_unknown_searches"]) == (21, 1)


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
