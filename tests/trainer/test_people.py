"""The simulated people do what their parameters say; everything measured with them rests on that."""

import numpy as np
import numpy.typing as npt
import pytest

from clickloop.retriever.errors import InvalidInput
from clickloop.trainer.people import KINDS, CascadePeople, People, TrustingPeople, people

SHOWN = [f"d{rank}" for rank in range(1, 11)]
SESSIONS = 4_000
RANKS = np.arange(1, 11)


def rates(clicks: list[list[int]]) -> npt.NDArray[np.float64]:
    """The share of sessions that clicked each rank."""
    counts = np.bincount([rank for session in clicks for rank in session], minlength=len(SHOWN) + 1)
    return counts[1:] / len(clicks)


def assert_rates(found: npt.NDArray[np.float64], expected: npt.NDArray[np.float64]) -> None:
    """Within four standard errors at every rank."""
    error = np.sqrt(expected * (1 - expected) / SESSIONS)
    assert (np.abs(found - expected) < 4 * error).all(), (found, expected)


def a_life(people: People) -> tuple[list[int], list[list[int]], list[list[int]]]:
    return (
        people.queries(50, 20),
        [people.clicks(SHOWN, {"d3"}) for _ in range(20)],
        [people.senseless_clicks(SHOWN) for _ in range(20)],
    )


def test_the_same_seed_gives_the_same_life_and_another_seed_another() -> None:
    assert a_life(People(3)) == a_life(People(3))
    assert a_life(People(3)) != a_life(People(4))


def test_right_documents_are_clicked_as_often_as_their_rank_is_looked_at() -> None:
    for bias in (0.0, 0.5, 1.0, 2.0):
        people = People(5, bias=bias, attraction=0.9, noise=0.1)
        found = rates([people.clicks(SHOWN, SHOWN) for _ in range(SESSIONS)])
        assert_rates(found, np.array([0.9 * rank**-bias for rank in range(1, 11)]))


def test_wrong_documents_get_only_noise_clicks_and_the_right_one_stands_out() -> None:
    people = People(6, bias=1.0, attraction=0.8, noise=0.2)
    found = rates([people.clicks(SHOWN, {"d4"}) for _ in range(SESSIONS)])
    assert_rates(found, np.where(RANKS == 4, 0.8, 0.2) / RANKS)


def test_people_without_noise_never_click_what_is_wrong() -> None:
    people = People(7, bias=0.0, attraction=1.0, noise=0.0)
    assert [people.clicks(SHOWN, {"d2", "d9"}) for _ in range(20)] == [[2, 9]] * 20


def test_senseless_clicks_follow_the_rank_alone() -> None:
    """They do not know what is right, and are as many as if half of all results were."""
    people = People(8, bias=1.0, attraction=0.9, noise=0.1)
    found = rates([people.senseless_clicks(SHOWN) for _ in range(SESSIONS)])
    assert_rates(found, 0.5 / RANKS)
    one, other = People(9), People(9)
    assert [one.senseless_clicks(SHOWN) for _ in range(20)] == [other.senseless_clicks(SHOWN[::-1]) for _ in range(20)]


def test_few_queries_are_asked_often() -> None:
    asked = np.bincount(People(10).queries(SESSIONS, 100, exponent=0.5), minlength=100)
    expected = np.arange(1, 101) ** -0.5
    expected = SESSIONS * expected / expected.sum()
    often = np.sort(asked)[::-1]
    assert asked.sum() == SESSIONS
    assert abs(often[0] - expected[0]) < 4 * np.sqrt(expected[0])
    assert abs(often[:50].sum() - expected[:50].sum()) < 0.05 * SESSIONS


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_shown_is_nothing_clicked(kind: str) -> None:
    assert (people(kind, 1).clicks([], {"d1"}), people(kind, 1).senseless_clicks([])) == ([], [])


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_made_by_its_name_and_repeats_its_life(kind: str) -> None:
    assert type(people(kind, 1)) is KINDS[kind]
    assert a_life(people(kind, 3)) == a_life(people(kind, 3))
    assert a_life(people(kind, 3)) != a_life(people(kind, 4))


def test_an_unknown_kind_is_refused_with_those_that_are() -> None:
    with pytest.raises(InvalidInput, match=r"'bored'.*position, cascade, trust"):
        people("bored", 1)


@pytest.mark.parametrize("kind", ["cascade", "trust"])
def test_people_of_a_kind_without_noise_click_first_what_is_right(kind: str) -> None:
    """Who reads from the top is not kept from the last rank; trust alone makes people click what is wrong."""
    found = [people(kind, seed, bias=0.0, attraction=1.0, noise=0.0).clicks(SHOWN, {"d10"}) for seed in range(50)]
    assert all(10 in ranks for ranks in found)
    assert any(len(ranks) > 1 for ranks in found) == (kind == "trust")


def test_who_reads_from_the_top_goes_on_after_a_click_as_often_as_not() -> None:
    """Reading ends only after a click: rank r is reached with (1 - attraction · stop)^(r - 1)."""
    right = CascadePeople(11, attraction=0.9, noise=0.1)
    found = rates([right.clicks(SHOWN, SHOWN) for _ in range(SESSIONS)])
    assert_rates(found, 0.9 * (1 - 0.9 * CascadePeople.stop) ** (RANKS - 1))
    wrong = CascadePeople(12, attraction=0.9, noise=0.1)
    found = rates([wrong.clicks(SHOWN, set()) for _ in range(SESSIONS)])
    assert_rates(found, 0.1 * (1 - 0.1 * CascadePeople.stop) ** (RANKS - 1))


def test_trust_makes_people_click_what_stands_on_top_right_or_wrong() -> None:
    trust = np.array(TrustingPeople.trust)
    for right, attraction in ((set(SHOWN), 0.9), (set[str](), 0.1)):
        trusting = TrustingPeople(13, bias=1.0, attraction=0.9, noise=0.1)
        found = rates([trusting.clicks(SHOWN, right) for _ in range(SESSIONS)])
        assert_rates(found, (attraction + (1 - attraction) * trust) / RANKS)


def test_trust_ends_where_its_ranks_end() -> None:
    shown = [f"d{rank}" for rank in range(1, 31)]
    trusting = TrustingPeople(14, bias=0.0, attraction=1.0, noise=0.0)
    clicked = {rank for _ in range(500) for rank in trusting.clicks(shown, set())}
    assert clicked == set(range(1, len(TrustingPeople.trust) + 1))
