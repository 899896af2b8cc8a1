"""Robots and click farms among simulated people: what is left out, and that nothing honest is."""

from collections.abc import Callable
from functools import cache

import numpy as np
import polars as pl
import pytest

from clickloop.trainer.click_fit import fit
from clickloop.trainer.people import People
from clickloop.trainer.robots import Robots, evenly, without_robots
from clickloop.trainer.tally import count_people

SHOWN, QUERIES, DOCUMENTS = 10, 1_000, 700
HONEST, PAID = 2_400, 600  # searches: a fifth is paid for
PUSHED = ["d1", "d2", "d3"]
POPULAR = "d4"
Visit = tuple[str, str, list[str], list[int]]  # person, query, shown, clicked ranks


@cache
def lists() -> list[tuple[list[str], str]]:
    """What each query shows, and which document is right: one of ten is not shown, most of the others are on top."""
    random = np.random.default_rng(0)
    found = []
    for _ in range(QUERIES):
        shown = [f"d{number}" for number in random.choice(np.arange(10, DOCUMENTS), SHOWN, replace=False)]
        weights = 1 / np.arange(1, SHOWN + 1) ** 1.5
        right = shown[int(random.choice(SHOWN, p=weights / weights.sum()))]
        found.append((shown, right if random.random() < 0.9 else "elsewhere"))
    for document in [*PUSHED, POPULAR]:  # each is shown far down for forty queries
        for query in random.choice(QUERIES, 40, replace=False):
            rank = int(random.integers(4, SHOWN))
            if found[query][0][rank] != found[query][1]:
                found[query][0][rank] = document
    return found


def honest(
    seed: int = 1, *, bias: float = 1.0, noise: float = 0.1, visits: int = 1, searches: int = HONEST
) -> list[Visit]:
    people = People(seed, bias=bias, noise=noise)
    asked = people.queries(searches, QUERIES)
    return [
        (f"h{number // visits}", f"q{query}", lists()[query][0], people.clicks(lists()[query][0], {lists()[query][1]}))
        for number, query in enumerate(asked)
    ]


def admirers(seed: int = 1, bias: float = 1.0, noise: float = 0.1) -> list[Visit]:
    """Honest people for whom a document that is shown far down is right, whatever they ask."""
    people = People(seed, bias=bias, noise=noise)
    random = np.random.default_rng(seed)
    queries = [query for query, (shown, _) in enumerate(lists()) if POPULAR in shown]
    visits: list[Visit] = []
    for number in range(PAID):
        query = int(random.choice(queries))
        shown = lists()[query][0]
        visits.append((f"hp{number}", f"q{query}", shown, people.clicks(shown, {POPULAR})))
    return visits


def farm(strategy: str, ids: int, rate: float, documents: list[str] = PUSHED, searches: int = PAID) -> list[Visit]:
    """Clicks on nothing but what it pushes, in a share `rate` of its searches; `ids` people, 0: always somebody new."""
    random = np.random.default_rng(9)
    visits: list[Visit] = []
    for number in range(searches):
        document = documents[number % len(documents)]
        deep = [query for query, (shown, _) in enumerate(lists()) if document in shown]
        if strategy == "own" or (strategy == "mixed" and random.random() < 0.5):
            own = int(random.integers(120))
            others = [
                f"d{i}" for i in np.random.default_rng(own).choice(np.arange(10, DOCUMENTS), SHOWN, replace=False)
            ]
            query, shown = f"{document} in words {own}", [*others[: own % 3], document, *others[own % 3 + 1 :]]
        else:
            query, shown = (chosen := int(random.choice(deep))) and f"q{chosen}", lists()[chosen][0]
        rank = shown.index(document) + 1
        who = f"f{document}-{number // 3 % ids if ids else number}"
        visits.append((who, query, shown, [rank] if random.random() < rate else []))
    return visits


def bots(clicks: Callable[[np.random.Generator], list[int]], ids: int) -> list[Visit]:
    random = np.random.default_rng(3)
    asked = random.integers(QUERIES, size=PAID)
    return [
        (f"b{number % ids if ids else number}", f"q{query}", lists()[query][0], clicks(random))
        for number, query in enumerate(asked)
    ]


def log_of(*crowds: list[Visit]) -> pl.DataFrame:
    visits = [visit for crowd in crowds for visit in crowd]
    order = np.random.default_rng(5).permutation(len(visits))
    rows = [
        (search, query, query, person, 0, document, rank, rank in clicked)
        for search, (person, query, shown, clicked) in enumerate((visits[i] for i in order), 1)
        for rank, document in enumerate(shown, 1)
    ]
    columns = ["search", "query", "cluster", "person", "day", "document_id", "rank", "clicked"]
    return pl.DataFrame(rows, schema=columns, orient="row")


def searches_of(log: pl.DataFrame, initial: str) -> int:
    return log.filter(pl.col("person").str.starts_with(initial))["search"].n_unique()


@pytest.mark.parametrize("rate", [1.0, 0.5])
@pytest.mark.parametrize("ids", [5, 0])
@pytest.mark.parametrize("strategy", ["own", "deep", "mixed"])
def test_what_a_farm_paid_for_is_left_out_and_nothing_else(strategy: str, ids: int, rate: float) -> None:
    log = log_of(honest(), farm(strategy, ids, rate))
    kept, robots = without_robots(log, 500)
    clicks = kept.filter(pl.col("person").str.starts_with("f") & pl.col("clicked"))
    assert len(clicks) <= 0.02 * PAID * rate
    assert searches_of(kept.filter("clicked"), "h") >= 0.99 * searches_of(log.filter("clicked"), "h")
    assert searches_of(kept, "h") >= 0.95 * HONEST, "some without a click, where a farm's cannot be told from them"
    assert robots.pushed == PUSHED
    assert robots.people == (15 if ids else 0)
    assert robots.searches == log["search"].n_unique() - kept["search"].n_unique()


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(("bias", "noise"), [(1.0, 0.1), (0.5, 0.1), (2.0, 0.1), (1.0, 0.4), (1.0, 0.0), (0.3, 0.1)])
def test_of_honest_people_nothing_is_left_out(seed: int, bias: float, noise: float) -> None:
    crowd = honest(seed, bias=bias, noise=noise)
    for log in (log_of(crowd), log_of(crowd, admirers(seed, bias, noise))):
        kept, robots = without_robots(log, 500)
        assert robots == Robots()
        assert kept.equals(log)


@pytest.mark.parametrize("visits", [20, 200])
def test_people_who_search_much_are_no_robots(visits: int) -> None:
    log = log_of(honest(bias=0.3, visits=visits))
    assert without_robots(log, 500)[1] == Robots()


@pytest.mark.parametrize(
    ("clicks", "ids"),
    [
        (lambda _: list(range(1, SHOWN + 1)), 5),
        (lambda _: list(range(1, SHOWN + 1)), 0),
        (lambda random: [int(random.integers(1, SHOWN + 1))], 3),
        (lambda random: [rank for rank in range(1, SHOWN + 1) if random.random() < 0.3], 5),
    ],
    ids=["everything", "everything, always somebody new", "one at random", "many at random"],
)
def test_clicks_on_everything_or_at_random_are_left_out(
    clicks: Callable[[np.random.Generator], list[int]], ids: int
) -> None:
    kept, robots = without_robots(log_of(honest(), bots(clicks, ids)), 500)
    assert (searches_of(kept, "b"), searches_of(kept, "h")) == (0, HONEST)
    assert (robots.people, robots.searches, robots.pushed) == (ids or PAID, PAID, [])


def test_a_few_people_cannot_have_a_document_left_out_that_others_click() -> None:
    log = log_of(honest(), admirers(), farm("deep", 2, 1.0, [POPULAR]))
    kept, robots = without_robots(log, 500)
    assert (robots.people, robots.pushed) == (2, [POPULAR])
    assert kept.equals(log.filter(pl.col("person").str.starts_with("h")))


def test_a_farm_cannot_have_a_document_left_out_where_it_is_rightly_on_top() -> None:
    crowd = honest()
    on_top: list[Visit] = [
        (f"ht{number}", f"top {number % 50}", [POPULAR, *lists()[number % 50][0][1:]], [1] if number % 4 else [1, 3])
        for number in range(200)
    ]
    kept, robots = without_robots(log_of(crowd, on_top, farm("deep", 0, 1.0, [POPULAR], 200)), 500)
    assert robots.pushed == [POPULAR]
    assert kept.filter(pl.col("query").str.starts_with("top"))["search"].n_unique() == 200
    assert searches_of(kept, "f") == 0


def test_people_who_search_too_much_are_left_out_and_counted() -> None:
    visits: list[Visit] = [
        (who, f"q{number}", ["a"], []) for who, many in (("robot", 5), ("busy", 4)) for number in range(many)
    ]
    log = log_of(visits)
    kept, robots = without_robots(log, 4)
    assert kept.equals(log.filter(pl.col("person") == "busy"))
    assert robots == Robots(people=1, searches=5)
    assert without_robots(log, 5)[1] == Robots()
    assert without_robots(log.with_columns(day=pl.col("search") % 2), 4)[1] == Robots(), "five searches on two days"
    assert without_robots(log.clear(), 5)[1] == Robots()


def test_a_short_list_of_which_everything_was_clicked_may_be_right() -> None:
    log = log_of([("ann", "q", ["a", "b", "c"], [1, 2, 3]), ("ben", "q", ["a", "b", "c", "d", "e"], [1, 2, 3, 4, 5])])
    assert without_robots(log, 500)[0]["person"].unique().to_list() == ["ann"]


@pytest.mark.parametrize("rate", [1.0, 0.5])
def test_a_query_asked_again_and_again_does_not_say_how_people_click(rate: float) -> None:
    random = np.random.default_rng(4)
    paid: list[Visit] = [
        (
            f"f{number}",
            f"paid {number % 9}",
            [f"d{number % 9}", *lists()[number % 9][0][1:]],
            [1] if random.random() < rate else [],
        )
        for number in range(PAID)
    ]
    usual = fit(count_people(honest_log := log_of(honest())))
    pushed = fit(count_people(log_of(honest(), paid)))
    found = fit(count_people(evenly(log_of(honest(), paid))))
    noise, shaped, kept = (model.wrong[0, 0] for model in (usual, pushed, found))
    assert abs(kept - noise) < 0.5 * abs(shaped - noise)
    assert (found.right[0, 0], kept) == pytest.approx((usual.right[0, 0], noise), abs=0.04)
    assert evenly(honest_log)["search"].n_unique() > 0.9 * HONEST
