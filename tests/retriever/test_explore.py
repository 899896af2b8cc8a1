"""Exploration: which places, from where, and with what probability."""

import math
from collections import Counter, defaultdict
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from clickloop.retriever.explore import Exploration, explore

DRAWS = 40_000
SIGMAS = 5  # of a count of draws; some 60 counts are compared, so chance fails one in 30,000 seeds


def shown(dials: Exploration, matches: int, k: int, random: Random) -> list[tuple[int, bool, float]]:
    """One search among `matches` documents, numbered from 0 in the order of the ranking."""
    places = dials.places(k)
    if random.random() < dials.share:
        return explore(range(min(matches, dials.depth)), k, places, dials.share, random)
    return explore(range(min(matches, k + len(places))), k, places, dials.share, None)


@pytest.mark.parametrize("matches", [1000, 20, 13, 11, 10, 7])
def test_the_recorded_propensity_is_how_often_the_result_is_seen_there(matches: int) -> None:
    dials, random = Exploration(share=0.3, first_slot=6, slots=4, depth=30), Random(11)
    seen: Counter[tuple[int, int, bool]] = Counter()
    recorded: dict[tuple[int, int, bool], set[float]] = defaultdict(set)
    for _ in range(DRAWS):
        for place, (item, explored, propensity) in enumerate(shown(dials, matches, 10, random)):
            seen[place, item, explored] += 1
            recorded[place, item, explored].add(propensity)
    for (place, item, explored), count in seen.items():
        (propensity,) = recorded[place, item, explored]
        spread = math.sqrt(DRAWS * propensity * (1 - propensity))
        assert abs(count - DRAWS * propensity) <= SIGMAS * spread, (place, item, explored)
    for place in range(min(matches, 10)):
        whole = sum(next(iter(found)) for (there, _, _), found in recorded.items() if there == place)
        assert whole == pytest.approx(1), "one of these is always there"


@given(
    share=st.floats(0.01, 0.5),
    first_slot=st.integers(4, 12),
    slots=st.integers(1, 10),
    depth=st.integers(5, 60),
    matches=st.integers(0, 80),
    k=st.integers(1, 40),
    random=st.randoms(use_true_random=False),
)
def test_only_the_slots_change_and_nothing_is_shown_twice(
    share: float, first_slot: int, slots: int, depth: int, matches: int, k: int, random: Random
) -> None:
    dials = Exploration(share=share, first_slot=first_slot, slots=slots, depth=depth)
    places = dials.places(k)
    page = explore(range(min(matches, max(depth, k))), k, places, share, random)
    items = [item for item, _, _ in page]
    assert len(items) == len(set(items)) == min(k, matches)
    for place, (item, explored, propensity) in enumerate(page):
        if explored:
            assert first_slot <= place + 1 < first_slot + slots
            assert k <= item < depth
            assert 0 < propensity <= share
        else:
            assert (item, propensity) == (place, 1.0)


def test_closer_candidates_are_more_probable() -> None:
    random = Random(3)
    drawn = Counter(explore(range(30), 10, range(9, 10), 0.1, random)[9][0] for _ in range(4000))
    assert drawn.keys() == set(range(10, 30))
    near, far = (sum(drawn[item] for item in items) for items in (range(10, 15), range(25, 30)))
    assert near / far == pytest.approx(sum(1 / r for r in range(11, 16)) / sum(1 / r for r in range(26, 31)), rel=0.15)


@pytest.mark.parametrize(
    ("dials", "k", "ranks"),
    [
        ({}, 10, []),
        ({"share": 0.1}, 10, [6, 7, 8, 9, 10]),
        ({"share": 0.1}, 7, [6, 7]),
        ({"share": 0.1}, 5, []),
        ({"share": 0.1}, 25, [6, 7, 8, 9, 10]),
        ({"share": 0.1}, 28, [6, 7]),  # only two candidates are left
        ({"share": 0.1}, 30, []),
        ({"share": 0.1, "first_slot": 9, "slots": 1}, 10, [9]),
    ],
)
def test_which_ranks_explore(dials: dict[str, float], k: int, ranks: list[int]) -> None:
    assert [place + 1 for place in Exploration.model_validate(dials).places(k)] == ranks


@pytest.mark.parametrize(
    "dials", [{"share": 0.6}, {"share": -0.1}, {"first_slot": 3}, {"slots": 0}, {"depth": 4}, {"places": 1}]
)
def test_what_would_harm_people_cannot_be_set(dials: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Exploration.model_validate(dials)
