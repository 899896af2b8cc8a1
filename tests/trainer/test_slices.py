"""Slices: which judged clusters belong to the head, the tail and to what no training was like."""

from itertools import combinations

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clickloop.trainer.evaluate import METRICS, Result
from clickloop.trainer.report import slices_json
from clickloop.trainer.slices import by_slice, head, unlike


def result(cluster: str, delta: float = 0.0) -> Result:
    sides = [dict.fromkeys(METRICS, 0.5 + sign * delta / 2) for sign in (-1, 1)]
    return Result(cluster, "", 1.0, cluster, sides[0], sides[1], [], [], {}, 0.9, 0.0, 0.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("views", "expected"),
    [
        ({"a": 5, "b": 3, "c": 2}, {"a"}),
        ({"a": 4, "b": 4, "c": 2}, {"a", "b"}),
        ({"a": 1, "b": 1, "c": 1}, {"a", "b"}),
        ({"a": 1}, {"a"}),
        ({}, set()),
    ],
)
def test_the_head_is_the_fewest_clusters_that_make_up_half_of_what_was_seen(
    views: dict[str, int], expected: set[str]
) -> None:
    assert head(views) == expected


@pytest.mark.parametrize(
    ("cluster", "trained", "expected"),
    [
        ("list python sort", "list sort", False),
        ("list sort", "sort", True),
        ("a b c d", "a b c x", False),
        ("a b c d", "a b x y", True),
        ("a b", "c d", True),
        ("a b", "", True),
    ],
)
def test_unlike_training_is_what_shares_at_most_half_of_its_words(cluster: str, trained: str, expected: bool) -> None:
    assert (unlike([cluster], [trained] if trained else []) == {cluster}) == expected


@given(st.lists(st.frozensets(st.sampled_from("abcdefgh"), min_size=1).map(lambda words: " ".join(sorted(words)))))
def test_no_alike_query_is_overlooked(clusters: list[str]) -> None:
    for one, other in combinations(clusters, 2):
        first, second = set(one.split()), set(other.split())
        alike = len(first & second) / len(first | second) > 0.5
        assert (unlike([one], [other, "x y z"]) == set()) == alike


def test_every_query_is_in_the_head_or_the_tail() -> None:
    log = pl.DataFrame({"views": [3, 2, 2, 2], "cluster": ["a x", "a x", "b y", "b y z"]})
    results = [result("a x", 0.2), result("b y", -0.1), result("b y z")]
    slices = by_slice(results, log, ["b y"])
    clusters = {name: [found.cluster for found in part] for name, part in slices.items()}
    assert clusters == {"head": ["a x"], "tail": ["b y", "b y z"], "unlike training": ["a x"]}
    told = slices_json(slices)
    assert told["tail"]["change"]["mean"] == pytest.approx(-0.05)
    assert told["tail"]["candidate"] == pytest.approx(0.475)
    assert (told["head"]["change"]["n"], told["head"]["change"]["low"]) == (1, None)


def test_nothing_judged_makes_empty_slices() -> None:
    log = pl.DataFrame({"views": [], "cluster": []}, schema={"views": pl.Int64, "cluster": pl.String})
    told = slices_json(by_slice([], log, []))
    assert told["head"]["champion"] is None
    assert told["unlike training"]["change"]["n"] == 0
