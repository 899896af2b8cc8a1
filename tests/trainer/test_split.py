"""What judges a model was never seen by it."""

from collections import Counter
from itertools import pairwise
from random import Random

import polars as pl
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from clickloop.trainer.recipe import Split
from clickloop.trainer.split import (
    DEVELOPMENT,
    HOLDOUT,
    MANY,
    MANY_SHARE,
    TRAINING,
    draw,
    number,
    numbers,
    split,
    untaught,
    who_judges,
)

PARTS = (TRAINING, DEVELOPMENT, HOLDOUT)
names = st.text(alphabet="abcäß 1-", min_size=1, max_size=4)
opening = st.sampled_from(["popular", "home"])  # of which one is held out, and the other is not
openers = st.builds(
    lambda cluster, many: [(cluster, f"opener {n}") for n in range(many)], opening, st.integers(0, 3 * MANY)
)
others = st.lists(st.tuples(names | opening, names | st.integers(0, 3 * MANY).map("opener {}".format)), max_size=60)
rows = st.builds(lambda *parts: [*parts[0], *parts[1], *parts[2]], others, openers, others)
shares = st.builds(Split, holdout=st.floats(0.05, 0.9), development=st.floats(0.01, 0.45))


def log_of(pairs: list[tuple[str, str]]) -> pl.DataFrame:
    """One impression for each (cluster, person)."""
    schema = {"cluster": pl.String, "person": pl.String}
    return pl.DataFrame(pairs, schema=schema, orient="row").with_row_index("search")


def parted(log: pl.DataFrame, dials: Split) -> dict[int, pl.DataFrame]:
    """With the persons' first searches taken from the log itself."""
    found = split(log, who_judges(log, dials), dials)
    return {part: found.filter(pl.col("part") == part).drop("part") for part in PARTS}


def everybody_asks_everything(clusters: int, people: int, first: int = 0) -> pl.DataFrame:
    numbers = range(first, first + clusters)
    return log_of([(f"cluster {c}", f"person {p}") for c in numbers for p in range(people)])


def column(parts: dict[int, pl.DataFrame], part: int, name: str) -> set[str]:
    return set(parts[part][name])


@given(rows, shares)
def test_no_cluster_is_in_two_parts_and_no_judge_teaches(pairs: list[tuple[str, str]], dials: Split) -> None:
    parts = parted(log_of(pairs), dials)
    clusters = [column(parts, part, "cluster") for part in PARTS]
    assert sum(map(len, clusters)) == len(set().union(*clusters))
    learners = column(parts, TRAINING, "person") | column(parts, DEVELOPMENT, "person")
    assert not learners & column(parts, HOLDOUT, "person")


@given(rows, shares, st.randoms(use_true_random=False))
def test_the_assignment_does_not_depend_on_the_order_of_rows(
    pairs: list[tuple[str, str]], dials: Split, random: Random
) -> None:
    log = log_of(pairs)
    order = list(range(len(log)))
    random.shuffle(order)
    one, other = parted(log, dials), parted(log[order], dials)
    for part in PARTS:
        assert one[part].equals(other[part].sort("search"))


@given(rows, rows, shares)
def test_a_later_night_moves_nothing(before: list[tuple[str, str]], new: list[tuple[str, str]], dials: Split) -> None:
    tonight, later = parted(log_of(before), dials), parted(log_of([*before, *new]), dials)
    for part in PARTS:
        kept = later[part].filter(pl.col("search") < len(before))
        assert kept.equals(tonight[part])


@given(rows, rows, shares)
def test_what_judged_once_never_teaches_later(
    before: list[tuple[str, str]], new: list[tuple[str, str]], dials: Split
) -> None:
    judges, later = parted(log_of(before), dials)[HOLDOUT], parted(log_of([*before, *new]), dials)
    for part in (TRAINING, DEVELOPMENT):
        assert not column(later, part, "cluster") & set(judges["cluster"])
        assert not column(later, part, "person") & set(judges["person"])


@pytest.mark.parametrize("dials", [Split(), Split(holdout=0.2, development=0.3)])
def test_the_shares_are_roughly_those_of_the_recipe(dials: Split) -> None:
    log = everybody_asks_everything(1000, 3)
    drawn = [draw(cluster) for cluster in log["cluster"].unique()]
    held_out = sum(number < dials.holdout for number in drawn) / 1000
    assert held_out == pytest.approx(dials.holdout, abs=0.06)
    assert column(parted(log, dials), HOLDOUT, "cluster") <= set(log["cluster"])


@given(rows, shares, st.lists(st.integers(0, 200), max_size=5))
def test_roles_do_not_depend_on_how_the_log_is_cut_into_nights(
    pairs: list[tuple[str, str]], dials: Split, cuts: list[int]
) -> None:
    log, people = log_of(pairs), who_judges(log_of([]), dials)
    for start, end in pairwise([0, *sorted(cuts), len(pairs) + 200]):
        new = log.filter(pl.col("search").is_between(start, end, closed="left"))
        begun = people.group_by("opening").agg(people=pl.len().cast(pl.Int64))
        people = pl.concat([people, who_judges(new.join(people, on="person", how="anti"), dials, begun)])
    assert people.equals(who_judges(log, dials))


@given(rows, shares)
def test_people_follow_their_first_search_unless_many_began_with_it(pairs: list[tuple[str, str]], dials: Split) -> None:
    first: dict[str, str] = {}
    for cluster, person in pairs:
        first.setdefault(person, cluster)
    began: Counter[str] = Counter()
    expected = []
    for place, (person, cluster) in enumerate(first.items()):
        many = began[cluster] >= MANY and began[cluster] > MANY_SHARE * place
        expected.append((person, draw(person if many else cluster) < dials.holdout))
        began[cluster] += 1
    assert who_judges(log_of(pairs), dials).select("person", "judges").rows() == expected


@pytest.mark.parametrize("opening", ["popular", "home"])
@pytest.mark.parametrize("share", [1.0, 0.3])
def test_an_app_that_searches_when_it_opens_leaves_people_who_teach_and_people_who_judge(
    opening: str, share: float
) -> None:
    """The hash of what 600 people began with would give all of them one role."""
    chance, pairs = Random(0), list[tuple[str, str]]()
    for person in range(600):
        if chance.random() < share:
            pairs.append((opening, f"client {person}"))
        pairs += [(f"subject {chance.randrange(90)}", f"client {person}") for _ in range(3)]
    log = log_of(pairs)
    assert who_judges(log, Split())["judges"].mean() == pytest.approx(Split().holdout, abs=0.05)
    found = parted(log, Split())
    asked = set(log["cluster"]) - {opening}
    held_out = {cluster for cluster in asked if draw(cluster) < Split().holdout}
    assert column(found, HOLDOUT, "cluster") - {opening} == held_out
    learned = column(found, TRAINING, "cluster") | column(found, DEVELOPMENT, "cluster")
    assert learned - {opening} == asked - held_out
    searches = sum(len(found[part].filter(pl.col("cluster") != opening)) for part in PARTS)
    assert searches > 0.55 * 3 * 600, "of people and queries drawn apart five of eight searches are left"


def test_of_visits_with_one_search_none_is_lost() -> None:
    log = log_of([(f"cluster {number % 40}", f"visit {number}") for number in range(400)])
    parts = parted(log, Split())
    assert sum(len(parts[part]) for part in PARTS) == len(log)


def test_the_parts_have_the_columns_of_the_log() -> None:
    log = everybody_asks_everything(50, 10)
    for part in PARTS:
        assert parted(log, Split())[part].schema == log.schema
        assert parted(log.clear(), Split())[part].is_empty()


@given(names, names)
def test_a_name_keeps_its_draw(one: str, other: str) -> None:
    assert 0 <= draw(one) < 1
    assert draw(one) == draw(one)
    assume(one != other)
    assert draw(one) != draw(other)


def test_draws_are_those_of_earlier_versions() -> None:
    """Another hash would let last year's judges teach."""
    assert draw("map sort") == 0.6574804009123495
    assert number("map sort") == 12128372689110062105


def test_a_followed_model_hears_of_held_out_queries_and_of_queries_that_nobody_had_searched() -> None:
    clusters = [f"cluster {number}" for number in range(200)]
    taught = numbers(pl.Series(clusters[:100]))
    log = log_of([(cluster, "late") for cluster in clusters])
    heard = untaught(log, taught, Split())
    kept = {cluster for cluster in clusters[:100] if draw(cluster) < Split().holdout}
    assert 0 < len(kept) < 100
    assert set(heard["cluster"]) == kept | set(clusters[100:])
    assert untaught(log.clear(), taught, Split()).is_empty()
    assert heard.schema == log.schema
