"""Exploration: now and then a lower-ranked result is seen in place of one near the end of the page.

What is right and not among the first k can never be clicked, and so never be learned. Every slot draws from candidates
of its own, which makes the probability of each result at its place exact without any repetition (drawing several
without replacement from one pool has no such closed form).
"""

from collections.abc import Sequence
from random import Random
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field

T = TypeVar("T")

EXPLORATION = "exploration"  # the ranker that the log names for an explored result


class Exploration(BaseModel):
    """Explored are `slots` ranks from `first_slot` on; the candidates are what follows the page, down to `depth`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    share: float = Field(0.0, ge=0, le=0.5, description="share of logged searches that explore; 0: none does")
    first_slot: int = Field(6, ge=4, description="rank from which results may be replaced by lower-ranked ones")
    slots: int = Field(5, ge=1, le=10, description="how many results of an exploring search are replaced at most")
    depth: int = Field(30, ge=5, le=200, description="rank down to which these lower-ranked results are drawn")

    def places(self, k: int) -> range:
        """Which of `k` results may be replaced, counted from 0: as many as have a candidate down to `depth`, and
        none where the page ends before the first slot.
        """
        if not self.share or k >= self.depth:
            return range(0)
        first = self.first_slot - 1
        return range(first, min(first + min(self.slots, self.depth - k), k))


def explore(
    ranked: Sequence[T], k: int, places: range, share: float, random: Random | None
) -> list[tuple[T, bool, float]]:
    """The first `k` of these results, each with whether it was explored and the probability of seeing it at its place.

    With `random` the search explores, as a share of them does, and `ranked` goes down to the last candidate; without it
    `ranked` needs one candidate for every place. Candidate c, counted from 0 after the page, belongs to place c modulo
    the number of places and is drawn there with a weight of 1 / rank: that is about how fast right documents get rare
    down a ranking. A place without a candidate keeps its own.
    """
    page = [(item, False, 1.0) for item in ranked[:k]]
    for number, place in enumerate(places):
        ranks = range(k + number, len(ranked), len(places))
        if not ranks:
            break
        if random is None:
            page[place] = (ranked[place], False, 1 - share)
        else:
            weights = [1 / (rank + 1) for rank in ranks]
            (drawn,) = random.choices(range(len(ranks)), weights)
            page[place] = (ranked[ranks[drawn]], True, share * (weights[drawn] / sum(weights)))
    return page
