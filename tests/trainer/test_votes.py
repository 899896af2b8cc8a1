"""What people prefer who see two models side by side."""

from dataclasses import replace
from math import sqrt

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from clickloop.retriever.explore import EXPLORATION
from clickloop.retriever.search import RANKER, against
from clickloop.trainer.preferences import drafted, leads, preferences
from clickloop.trainer.votes import Vote, Votes

MODEL = "release-new"
RANKERS = {"+": MODEL, "-": against(MODEL), ".": RANKER, "?": EXPLORATION}
some_leads = st.lists(st.integers(-30, 30), max_size=40)


def shown(*lists: tuple[str, str] | tuple[str, str, str]) -> pl.DataFrame:
    """One list a search: who saw it, its results in order, and the query; "+" is a result of the release, "-" of the
    champion, "." of neither, "?" explored; a "!" after a result is a click.
    """
    rows = []
    for search, (person, results, *asked) in enumerate(lists):
        for place, mark in enumerate(results):
            if mark != "!":
                clicked = results[place + 1 : place + 2] == "!"
                rows.append((search, person, RANKERS[mark], clicked, *(asked or ["q"])))
    return pl.DataFrame(rows, schema=["search", "person", "ranker", "clicked", "cluster"], orient="row")


def values(log: pl.DataFrame, release: str = MODEL) -> dict[str, int]:
    return {person: vote.value for person, vote in preferences(log, release).items()}


@pytest.mark.parametrize(
    ("results", "preference"),
    [("+!-+-", 1), ("+-!+-", -1), ("+!-!+-", 0), ("+-+-", 0), ("+!-!+!-", 1), ("-!", -1), (".!+!", 1), (".!+-", 0)],
)
def test_a_person_prefers_whose_results_they_clicked_more(results: str, preference: int) -> None:
    assert values(shown(("ann", results))) == {"ann": preference}


def test_a_person_counts_once_however_often_they_search() -> None:
    log = shown(("ann", "+!-"), ("ann", "+-!"), ("ann", "-+!"), ("ann", "+-"), ("bob", "+-!"))
    assert values(log) == {"ann": 1, "bob": -1}


def test_lists_of_the_champion_alone_and_of_other_challengers_say_nothing() -> None:
    assert values(shown(("ann", "..!."))) == {}
    assert values(shown(("ann", "+!-")), "release-newer") == {}


def test_whoever_asks_again_has_passed_over_what_was_shown_and_does_not_vote() -> None:
    log = shown(("ann", "-+!"), ("bob", "-+!"))
    told = log.with_columns(first=pl.col("person") == "bob")
    assert values(told) == {"bob": 1}
    assert set(drafted(told, MODEL)["person"]) == {"bob"}


def test_what_was_not_drafted_from_both_is_not_among_the_lists() -> None:
    log = shown(("ann", ".!."), ("bob", "-.+"), ("cid", "?.."), ("dan", "+"))
    assert drafted(log, MODEL)["person"].to_list() == ["bob", "bob", "bob", "dan"]


def test_explored_results_say_nothing() -> None:
    assert values(shown(("ann", "..?!"), ("bob", "?!-+!"))) == {"bob": 1}


def test_a_vote_is_about_what_most_people_asked_of_what_agrees_with_it() -> None:
    ann = [("ann", "+!-", "rare"), ("ann", "+!-", "usual"), ("ann", "+-!", "popular")]
    others = [(person, "+-", query) for query, count in (("popular", 3), ("usual", 2)) for person in "bcd"[:count]]
    found = preferences(shown(*ann, *others), MODEL)
    assert found["ann"] == Vote(1, "usual")
    assert {found[person].value for person in "bcd"} == {0}
    assert leads(found.values()) == {"usual": 1}


def test_votes_about_many_queries_are_nearly_as_certain_as_exact_counts() -> None:
    agreed = Votes.of(150, [1] * 90 + [-1] * 10)
    assert float(binom.sf(89, 100, 0.5)) < agreed.p_value < 1e-13
    assert agreed.mean == pytest.approx(80 / 150)
    assert (agreed.low, agreed.high) == pytest.approx((80 / 150 - 1.96 / 15, 80 / 150 + 1.96 / 15))
    assert Votes.of(40, []).p_value == Votes().p_value == Votes.of(9, [-1] * 9).p_value == 1


def test_what_everybody_says_about_one_query_is_no_evidence() -> None:
    assert Votes.of(1000, [1000]).p_value > 0.5
    assert Votes.of(1000, [-1000]).high > 0
    assert Votes.of(1000, [500, *[1] * 10]).p_value > 0.1


def test_the_query_of_the_day_does_not_drown_what_all_others_say() -> None:
    others = [1] * 300 + [-1] * 100
    assert Votes.of(1200, [-300, *others]).p_value < 1e-9
    assert Votes.of(1200, [300, *[-lead for lead in others]]).z < -5


@pytest.mark.parametrize("trend", [0, 1, 20, 200])
def test_people_who_prefer_nothing_seldom_seem_to(trend: int) -> None:
    """Also where some ask the query of the day and agree."""
    random = np.random.default_rng(8)
    found = []
    for _ in range(4000):
        signs = random.choice([-1, 1], size=101).tolist()
        found.append(Votes.of(100 + trend, [trend * signs[0], *signs[1:]]).p_value)
    for level in (0.01, 0.05, 0.2):
        assert sum(p <= level for p in found) <= 4000 * level + 4 * sqrt(4000 * level)


@given(some_leads, some_leads)
def test_votes_about_other_queries_add_up(first: list[int], second: list[int]) -> None:
    both, whole = Votes.of(50, first) + Votes.of(9, second), Votes.of(59, [*first, *second])
    assert replace(both, roots=0) == replace(whole, roots=0)
    assert both.roots == pytest.approx(whole.roots, abs=1e-9)
