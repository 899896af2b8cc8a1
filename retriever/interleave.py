"""Team-draft interleaving: one list out of two rankings, so that people's clicks say which they prefer.

Radlinski, Kurup, Joachims: How does clickthrough data reflect retrieval quality? (2008). Unlike judgments from clicks
on one ranking, what both show is compared within the same search, at the same ranks.
"""

from collections.abc import Hashable, Sequence
from random import Random
from typing import TypeVar

T = TypeVar("T", bound=Hashable)


def team_draft(first: Sequence[T], second: Sequence[T], k: int, random: Random) -> list[tuple[T, bool]]:
    """At most `k` items without repetition; True marks those that `second` gave.

    Round by round, chance says which ranking picks first; each picks its best item that is not yet in the list.
    """
    drafted: list[tuple[T, bool]] = []
    taken: set[T] = set()
    rankings = iter(first), iter(second)
    while True:
        before = len(drafted)
        for team in random.sample((0, 1), 2):
            item = next((item for item in rankings[team] if item not in taken), None)
            if item is not None:
                taken.add(item)
                drafted.append((item, bool(team)))
        if len(drafted) == before or len(drafted) >= k:
            return drafted[:k]
