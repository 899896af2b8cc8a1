"""Team-draft interleaving: a fair list out of two rankings."""

from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from clickloop.retriever.interleave import team_draft

rankings = st.lists(st.integers(0, 30), max_size=20, unique=True)


@given(rankings, rankings, st.integers(1, 25), st.randoms(use_true_random=False))
def test_every_list_is_whole_and_every_pick_is_its_teams_best(
    first: list[int], second: list[int], k: int, random: Random
) -> None:
    drafted = team_draft(first, second, k, random)
    items = [item for item, _ in drafted]
    assert len(items) == len(set(items)) == min(k, len(set(first) | set(second)))
    for place, (item, theirs) in enumerate(drafted):
        left = [other for other in (second if theirs else first) if other not in items[:place]]
        assert item == left[0]


@given(rankings, rankings, st.randoms(use_true_random=False))
def test_both_teams_pick_once_a_round_while_both_have_items(
    first: list[int], second: list[int], random: Random
) -> None:
    drafted = team_draft(first, second, 100, random)
    for place in range(0, len(drafted) - 1, 2):
        taken = {item for item, _ in drafted[: place + 1]}
        if set(first) - taken and set(second) - taken:
            assert {theirs for _, theirs in drafted[place : place + 2]} == {False, True}


def test_chance_is_fair() -> None:
    """Two rankings with nothing in common: each has the first place half of the time."""
    random = Random(5)
    counts = Counter(team_draft(["a", "b"], ["c", "d"], 1, random)[0][1] for _ in range(4000))
    assert abs(counts[True] - 2000) < 4 * 32


def test_equal_rankings_give_their_own_order() -> None:
    assert [item for item, _ in team_draft("abcd", "abcd", 3, Random(1))] == ["a", "b", "c"]
