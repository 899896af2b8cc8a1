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
        best = [[other for other in ranking if other not in items[:place]][:1] for ranking in (first, second)]
        assert best[bool(theirs)] == [item]
        if theirs is None:
            assert best[0] == best[1], "what is nobody's was the best of both"


@given(rankings, rankings, st.randoms(use_true_random=False))
def test_both_teams_pick_once_a_round_while_both_have_items(
    first: list[int], second: list[int], random: Random
) -> None:
    """What both begin a round with is nobody's and takes no turn."""
    drafted = team_draft(first, second, 100, random)
    turns = [place for place, (_, theirs) in enumerate(drafted) if theirs is not None]
    for one, other in zip(turns[::2], turns[1::2], strict=False):
        taken = {item for item, _ in drafted[: one + 1]}
        if set(first) - taken and set(second) - taken:
            assert other == one + 1
            assert {drafted[one][1], drafted[other][1]} == {False, True}


def test_chance_is_fair() -> None:
    """Two rankings with nothing in common: each has the first place half of the time."""
    random = Random(5)
    counts = Counter(team_draft(["a", "b"], ["c", "d"], 1, random)[0][1] for _ in range(4000))
    assert abs(counts[True] - 2000) < 4 * 32


def test_equal_rankings_give_their_own_order_and_no_votes() -> None:
    assert team_draft("abcd", "abcd", 3, Random(1)) == [("a", None), ("b", None), ("c", None)]


def test_an_equal_beginning_is_nobodys() -> None:
    drafted = team_draft("abcd", "abdc", 4, Random(1))
    assert drafted[:2] == [("a", None), ("b", None)]
    assert {theirs for _, theirs in drafted[2:]} == {False, True}
