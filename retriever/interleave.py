"""Team-draft interleaving: one list out of two rankings, so that people's clicks say which they prefer.

Radlinski, Kurup, Joachims: How does clickthrough data reflect retrieval quality? (2008). Unlike judgments from clicks
on one ranking, what both show is compared within the same search, at the same ranks.
"""

from collections.abc import Hashable, Sequence
from random import Random
from typing import TypeVar

T = TypeVar("T", bound=Hashable)


def team_draft(first: Sequence[T], second: Sequence[T], k: int, random: Random) -> list[tuple[T, bool | None]]:
    """At most `k` items without repetition; True marks those that `second` gave, False those of `first`.

    Round by round, chance says which ranking picks first; each picks its best item that is not yet in the list. Where
    both would begin a round with the same item it is nobody's (None): a click on it would be a vote by chance, and
    equal beginnings get most of the clicks.
    """
    rankings, places = (first, second), [0, 0]
    drafted: list[tuple[T, bool | None]] = []
    taken: set[T] = set()

    def best(team: int) -> T | None:
        ranking = rankings[team]
        while places[team] < len(ranking) and ranking[places[team]] in taken:
            places[team] += 1
        return ranking[places[team]] if places[team] < len(ranking) else None

    def take(item: T | None, team: bool | None) -> None:
        if item is not None:
            taken.add(item)
            drafted.append((item, team))

    while len(drafted) < k and (best(0), best(1)) != (None, None):
        if best(0) == best(1):
            take(best(0), None)
        else:
            for team in random.sample((0, 1), 2):
                take(best(team), bool(team))
    return drafted[:k]
