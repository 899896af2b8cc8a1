"""What judges a model was never seen by it."""

from random import Random

import polars as pl
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from clickloop.trainer.recipe import Split
from clickloop.trainer.split import Parts, draw, split

PARTS = ("training", "development", "holdout")
names = st.text(alphabet="abcäß 1-", min_size=1, max_size=4)
rows = st.lists(st.tuples(names, names), max_size=60)
shares = st.builds(Split, holdout=st.floats(0.05, 0.9), development=st.floats(0.01, 0.45), judges=st.floats(0.05, 0.95))


def log_of(pairs: list[tuple[str, str]]) -> pl.DataFrame:
    """One impression for each (cluster, person)."""
    schema = {"cluster": pl.String, "person": pl.String}
    return pl.DataFrame(pairs, schema=schema, orient="row").with_row_index("search")


def everybody_asks_everything(clusters: int, people: int, first: int = 0) -> pl.DataFrame:
    numbers = range(first, first + clusters)
    return log_of([(f"cluster {c}", f"person {p}") for c in numbers for p in range(people)])


def column(parts: Parts, part: str, name: str) -> set[str]:
    return set(getattr(parts, part)[name])


@given(rows, shares)
def test_no_cluster_is_in_two_parts_and_no_judge_teaches(pairs: list[tuple[str, str]], dials: Split) -> None:
    parts = split(log_of(pairs), dials)
    clusters = [column(parts, part, "cluster") for part in PARTS]
    assert sum(map(len, clusters)) == len(set().union(*clusters))
    learners = column(parts, "training", "person") | column(parts, "development", "person")
    assert not learners & column(parts, "holdout", "person")


@given(rows, shares, st.randoms(use_true_random=False))
def test_the_assignment_does_not_depend_on_the_order_of_rows(
    pairs: list[tuple[str, str]], dials: Split, random: Random
) -> None:
    log = log_of(pairs)
    order = list(range(len(log)))
    random.shuffle(order)
    one, other = split(log, dials), split(log[order], dials)
    for part in PARTS:
        assert getattr(one, part).equals(getattr(other, part).sort("search"))


@given(rows, rows, shares)
def test_a_later_night_moves_nothing(before: list[tuple[str, str]], new: list[tuple[str, str]], dials: Split) -> None:
    tonight, later = split(log_of(before), dials), split(log_of([*before, *new]), dials)
    for part in PARTS:
        kept = getattr(later, part).filter(pl.col("search") < len(before))
        assert kept.equals(getattr(tonight, part))


@given(rows, rows, shares)
def test_what_judged_once_never_teaches_later(
    before: list[tuple[str, str]], new: list[tuple[str, str]], dials: Split
) -> None:
    judges, later = split(log_of(before), dials).holdout, split(log_of(new), dials)
    for part in ("training", "development"):
        assert not column(later, part, "cluster") & set(judges["cluster"])
        assert not column(later, part, "person") & set(judges["person"])


@pytest.mark.parametrize("dials", [Split(), Split(holdout=0.2, development=0.3, judges=0.7)])
def test_the_shares_are_roughly_those_of_the_recipe(dials: Split) -> None:
    log = everybody_asks_everything(1000, 100)
    parts = split(log, dials)
    training = 1 - dials.holdout - dials.development
    expected = (training, dials.development, dials.holdout)
    for part, share in zip(PARTS, expected, strict=True):
        assert len(column(parts, part, "cluster")) / 1000 == pytest.approx(share, abs=0.06)
    assert len(column(parts, "holdout", "person")) / 100 == pytest.approx(dials.judges, abs=0.16)


def test_learning_queries_of_learners_are_never_thrown_away() -> None:
    """What is left out are judges asking learners' queries and learners asking judges' queries, nothing else."""
    log = everybody_asks_everything(200, 20)
    parts = split(log, Split())
    judges, held_out = column(parts, "holdout", "person"), column(parts, "holdout", "cluster")
    used = [pair for part in PARTS for pair in getattr(parts, part).select("cluster", "person").rows()]
    everything = log.select("cluster", "person").rows()
    assert sorted(used) == sorted(pair for pair in everything if (pair[0] in held_out) == (pair[1] in judges))


def test_the_parts_have_the_columns_of_the_log() -> None:
    log = everybody_asks_everything(50, 10)
    for part in PARTS:
        assert getattr(split(log, Split()), part).schema == log.schema
        assert getattr(split(log.clear(), Split()), part).is_empty()


@given(names, names)
def test_a_name_keeps_its_draw_and_kinds_are_independent(one: str, other: str) -> None:
    assert 0 <= draw("cluster", one) < 1
    assert draw("cluster", one) == draw("cluster", one)
    assert draw("cluster", one) != draw("person", one)
    assume(one != other)
    assert draw("cluster", one) != draw("cluster", other)


def test_draws_are_those_of_earlier_versions() -> None:
    """Another hash would let last year's judges teach."""
    assert draw("cluster", "map sort") == 0.9661870311683997
    assert draw("person", "ann") == 0.22828494404421024
