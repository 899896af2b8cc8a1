"""What a night reads from the log, through the real log and database."""

from collections.abc import Iterator
from random import Random
from typing import Any

import orjson
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clickloop.retriever.database import Database
from clickloop.retriever.log import SearchLog
from clickloop.retriever.types import Event, Search, Shown, Who
from clickloop.trainer.runs import Bounds
from clickloop.trainer.snapshot import (
    DEEPEST,
    EVERYTHING,
    block_end,
    bounds_now,
    canonical,
    clicked_later,
    clicks_received,
    cluster_of,
    commonest,
    fingerprint,
    normalised,
    read_log,
    read_searches,
    wordings_of,
)

COLUMNS = [
    *(
        "search",
        "query",
        "text",
        "person",
        "day",
        "release",
        "document_id",
        "rank",
        "ranker",
        "score",
        "clicked",
        "level",
    ),
    "cluster",
    "within",
]
DOCUMENTS = ("a", "b", "c")


class Traffic:
    """Writes searches and events as the service does; every write is committed when a method returns."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.log = SearchLog(database)
        self._number = 0

    def search(
        self,
        query_id: str,
        query: str = "sort a map",
        who: Who | None = None,
        shown: tuple[str, ...] = DOCUMENTS,
        filter: dict[str, Any] | None = None,
    ) -> None:
        results = [Shown(rank, document_id, "live") for rank, document_id in enumerate(shown, start=1)]
        self.log.record(Search(query_id, query, 10, filter, "b1", "r1", results, who or Who(user_id="ann"), 1.0, 100.0))
        self.event("nobody-asked", "x")  # acknowledged after everything before it

    def event(self, query_id: str, document_id: str, action: str = "click") -> None:
        self._number += 1
        self.log.add([Event(f"e{self._number}", query_id, action, document_id, 1, Who(), None, 100.0)])

    def bounds(self) -> Bounds:
        return bounds_now(self.database)

    def read(self) -> pl.DataFrame:
        return read_log(self.database, self.bounds())

    def clicked(self) -> list[tuple[int, str]]:
        return clicked(self.read())


def clicked(log: pl.DataFrame) -> list[tuple[int, str]]:
    """(search, document) of every clicked result."""
    return log.filter("clicked").select("search", "document_id").rows()


@pytest.fixture
def traffic(database: Database) -> Iterator[Traffic]:
    made = Traffic(database)
    yield made
    made.log.close()


def test_every_shown_result_is_one_row_in_the_order_shown(traffic: Traffic) -> None:
    traffic.search("q1", shown=("b", "a"))
    traffic.search("q2", shown=("c",))
    traffic.search("q3", shown=())
    log = traffic.read()
    assert log.columns == COLUMNS
    assert log.select("search", "document_id", "rank").rows() == [(1, "b", 1), (1, "a", 2), (2, "c", 1)]
    assert not log["clicked"].any()


def test_searches_with_a_filter_are_told_from_others(traffic: Traffic) -> None:
    traffic.search("q1", shown=("a",))
    traffic.search("q2", shown=("b",), filter={"tenant": 3})
    assert traffic.read().select("search", "within").rows() == [(1, EVERYTHING), (2, '{"tenant":3}')]


@pytest.mark.parametrize(
    ("filter", "same"),
    [
        ({"b": [2, 1], "a": {"lt": 5, "gt": 1}}, {"a": {"gt": 1, "lt": 5}, "b": [1, 2]}),
        (
            {"must": [{"key": "b", "match": {"value": 1}}, {"key": "a", "match": {"any": ["y", "x"]}}]},
            {"must": [{"match": {"any": ["x", "y"]}, "key": "a"}, {"key": "b", "match": {"value": 1}}]},
        ),
        ({"must": [], "should": []}, {}),
    ],
)
def test_filters_that_differ_in_the_order_of_their_parts_are_the_same(
    filter: dict[str, Any], same: dict[str, Any]
) -> None:
    one, other = (canonical(orjson.dumps(each).decode()) for each in (filter, same))
    assert one == other == canonical(one)
    assert (one == EVERYTHING) == (not same)
    assert canonical(EVERYTHING) == EVERYTHING


def test_a_filter_that_is_no_longer_understood_is_kept_as_it_is() -> None:
    assert [canonical(odd) for odd in ("[1]", "5", "not JSON", '{"a b": 1}')] == ["[1]", "5", "not JSON", '{"a b": 1}']


def test_a_click_belongs_to_the_search_and_the_document_it_names(traffic: Traffic) -> None:
    for query_id in ("q1", "q2"):
        traffic.search(query_id)
    traffic.event("q2", "b")
    assert traffic.clicked() == [(2, "b")]


def test_repeated_clicks_make_no_new_rows(traffic: Traffic) -> None:
    traffic.search("q1")
    for action in ("click", "click", "purchase"):
        traffic.event("q1", "c", action)
    assert traffic.clicked() == [(1, "c")]
    assert len(traffic.read()) == 3


@pytest.mark.parametrize("action", ["click", "add_to_cart", "purchase"])
def test_what_follows_a_click_counts_as_one(traffic: Traffic, action: str) -> None:
    traffic.search("q1")
    traffic.event("q1", "a", action)
    assert traffic.clicked() == [(1, "a")]


def test_events_that_mean_nothing_are_left_out(traffic: Traffic) -> None:
    traffic.search("q1")
    traffic.event("no-such-query", "a")
    traffic.event("q1", "never-shown")
    for action in ("impression", "hover", "Click", ""):
        traffic.event("q1", "a", action)
    assert traffic.clicked() == []
    assert len(traffic.read()) == 3


def test_what_lies_below_the_deepest_rank_is_not_read(traffic: Traffic) -> None:
    long = tuple(f"d{rank}" for rank in range(1, DEEPEST + 20))
    traffic.search("q1", shown=long)
    for document_id in (long[DEEPEST - 1], long[DEEPEST]):
        traffic.event("q1", document_id)
    log = traffic.read()
    assert log["rank"].to_list() == list(range(1, DEEPEST + 1))
    assert clicked(log) == [(1, long[DEEPEST - 1])]
    assert block_end(traffic.database, DEEPEST + 1, 0, 1) == 1, "nor does it count in a block"
    assert clicks_received(traffic.database, Bounds(0, 0), traffic.bounds().event) == {
        "clicks_received": 3,
        "clicks_of_unknown_searches": 1,  # see Traffic.search
        "clicks_of_documents_not_shown": 0,
    }


def test_a_block_ends_with_the_search_that_reaches_so_many_results(traffic: Traffic) -> None:
    for number, shown in enumerate([DOCUMENTS, (), DOCUMENTS[:1], DOCUMENTS, ()], 1):
        traffic.search(f"q{number}", shown=shown)
    ends = [block_end(traffic.database, results, 0, 5) for results in (1, 3, 4, 5, 7, 8)]
    assert ends == [1, 1, 3, 4, 4, 5]
    assert [block_end(traffic.database, results, 1, 3) for results in (1, 2)] == [3, 3]


def test_clicks_that_count_nowhere_are_counted(traffic: Traffic) -> None:
    assert set(clicks_received(traffic.database, Bounds(0, 0), 0).values()) == {0}
    traffic.search("q1")
    before = traffic.bounds()
    traffic.search("q2")
    for query_id, document_id, action in (
        ("q1", "a", "click"),
        ("q2", "b", "purchase"),
        ("q2", "never-shown", "click"),
        ("no-such-query", "a", "click"),
        ("no-such-query", "a", "hover"),
    ):
        traffic.event(query_id, document_id, action)
    tonight = traffic.bounds()
    traffic.event("too-late", "a")
    assert list(clicks_received(traffic.database, before, tonight.event).values()) == [5, 2, 1]


def test_what_arrives_after_the_bounds_waits_for_the_next_night(traffic: Traffic) -> None:
    traffic.search("q1")
    traffic.event("q1", "a")
    tonight = traffic.bounds()
    before = read_log(traffic.database, tonight)
    traffic.event("q1", "b")
    traffic.search("q2")
    traffic.event("q2", "a")
    assert read_log(traffic.database, tonight).equals(before)
    assert clicked(before) == [(1, "a")]
    assert traffic.clicked() == [(1, "a"), (1, "b"), (2, "a")]


def test_only_searches_after_a_number_are_read(traffic: Traffic) -> None:
    for query_id in ("q1", "q2", "q3"):
        traffic.search(query_id)
        traffic.event(query_id, "a")
    later = read_log(traffic.database, traffic.bounds(), after=2)
    assert later["search"].unique().to_list() == [3]
    assert clicked(later) == [(3, "a")]
    assert read_log(traffic.database, traffic.bounds(), after=3).is_empty()


def test_a_late_event_of_an_early_search_counts(traffic: Traffic) -> None:
    traffic.search("q1")
    traffic.search("q2")
    assert traffic.clicked() == []
    traffic.event("q1", "c")
    assert traffic.clicked() == [(1, "c")]


def test_queries_in_other_case_and_spacing_are_one_query(traffic: Traffic) -> None:
    for number, query in enumerate(["Sort a  Map", "  sort a map ", "sort\ta\nmap", "SORT A MAP"]):
        traffic.search(f"q{number}", query)
    assert traffic.read()["query"].unique().to_list() == ["sort a map"]


def test_near_duplicates_share_a_cluster_and_others_do_not(traffic: Traffic) -> None:
    same = ["sort a map", "How to sort maps?", "map, sort", "sort the map!"]
    other = ["sort a list", "sort"]
    for number, query in enumerate([*same, *other]):
        traffic.search(f"q{number}", query)
    clusters = dict(traffic.read().select("query", "cluster").unique().rows())
    assert len({clusters[normalised(query)] for query in same}) == 1
    assert len(set(clusters.values())) == 3


def test_the_furthest_action_gives_a_click_its_level(traffic: Traffic) -> None:
    traffic.search("q1", shown=("a", "b", "c", "d"))
    for document_id, actions in {"a": ["click"], "b": ["add_to_cart", "click"], "c": ["click", "purchase"]}.items():
        for action in actions:
            traffic.event("q1", document_id, action)
    assert traffic.read().select("document_id", "level").rows() == [("a", 1), ("b", 2), ("c", 3), ("d", 0)]


def test_an_empty_log_has_all_columns(traffic: Traffic) -> None:
    empty = traffic.read()
    assert (empty.columns, len(empty)) == (COLUMNS, 0)
    traffic.search("q1")
    assert empty.schema == traffic.read().schema


def test_a_person_is_the_best_known_of_user_client_session_and_search(traffic: Traffic) -> None:
    everything = Who(client_id="client", session_id="session", user_id="user")
    people = [everything, Who(client_id="client", session_id="session"), Who(session_id="session"), Who()]
    for number, who in enumerate(people):
        traffic.search(f"q{number}", who=who, shown=("a",))
    assert traffic.read()["person"].to_list() == ["user", "client", "session", "q3"]


def test_the_fingerprint_tells_one_more_click_or_action_and_nothing_else(traffic: Traffic) -> None:
    traffic.search("q1")
    first = fingerprint(traffic.read())
    assert first == fingerprint(traffic.read())
    traffic.event("q1", "never-shown")
    assert first == fingerprint(traffic.read())
    traffic.event("q1", "b")
    second = fingerprint(traffic.read())
    traffic.search("q2")
    third = fingerprint(traffic.read())
    traffic.event("q1", "b", "purchase")
    assert len({first, second, third, fingerprint(traffic.read()), fingerprint(traffic.read().clear())}) == 5


def test_searches_that_were_clicked_later_are_found_and_read_as_of_then_and_now(traffic: Traffic) -> None:
    for query_id in ("q1", "q2", "q3"):
        traffic.search(query_id)
    traffic.event("q1", "a")
    before = traffic.bounds()
    traffic.search("q4")
    for query_id, document_id, action in (("q2", "b", "click"), ("q3", "a", "hover"), ("q4", "c", "click")):
        traffic.event(query_id, document_id, action)
    now = traffic.bounds()
    traffic.event("q3", "c")
    assert clicked_later(traffic.database, before, now.event) == [2]
    assert clicked(read_searches(traffic.database, [1, 2, 4], now.event)) == [(1, "a"), (2, "b"), (4, "c")]
    assert clicked(read_searches(traffic.database, [1, 2], before.event)) == [(1, "a")]
    assert read_searches(traffic.database, [1, 2, 3, 4], now.event).equals(read_log(traffic.database, now))
    assert read_searches(traffic.database, [], now.event).equals(traffic.read().clear())


def test_a_query_is_read_as_it_was_asked_most_often(traffic: Traffic) -> None:
    for number, text in enumerate(["Sort a map", "sort a map", "sort a map", "Split", "split"]):
        traffic.search(f"q{number}", text)
    assert commonest(wordings_of(traffic.read())) == {"sort a map": "sort a map", "split": "Split"}


@given(st.text(max_size=30))
def test_spacing_changes_neither_the_query_nor_its_cluster(query: str) -> None:
    spaced = f"  {query.replace(' ', '   ')} "
    assert normalised(spaced) == normalised(query)
    assert cluster_of(spaced) == cluster_of(query)


@given(st.lists(st.text("abcäß12", min_size=3, max_size=8), min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_the_same_words_in_any_order_are_one_cluster(words: list[str], random: Random) -> None:
    shuffled = random.sample(words, len(words))
    assert cluster_of(" the ".join(shuffled).upper() + "?") == cluster_of(", ".join(words))


@pytest.mark.parametrize(
    "different",
    [
        ("class __enter__", "class __exit__"),
        ("__init__ method", "__repr__ method", "method"),
        ("दिन", "दान", "दून"),
        ("วัน", "วิน"),
    ],
)
def test_words_that_differ_are_other_clusters(different: tuple[str, ...]) -> None:
    assert len({cluster_of(query) for query in different}) == len(different)


@pytest.mark.parametrize(
    ("one", "other"), [("os.path.join", "os path join"), ("__init__ method", "init methods"), ("of the", "The, of")]
)
def test_punctuation_and_small_words_make_no_other_cluster(one: str, other: str) -> None:
    assert cluster_of(one) == cluster_of(other)
