"""Who visits a simulated service in a day: honest people, robots, and farms that are paid to click."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random

from ..retriever.types import Who
from ..trainer.people import people
from .plan import Plan

BOT_SESSIONS = 200  # searches a robot makes a day
BOT_CLICKS = 0.5  # chance that a robot clicks a result
LOW = slice(4, 10)  # ranks 5 to 10: what a farm pushes is seen there and hardly looked at
FARM_PEOPLE = 5  # of a farm that keeps its client ids
POPULAR = 10  # farms push documents of this many times as many that the most queries show low
Right = Mapping[str, Collection[str]]  # a query's text → the ids that answer it


@dataclass(frozen=True, slots=True)
class Visit:
    """One search; `clicks` are the ranks (from 1) that its person clicks of the ids shown."""

    text: str
    who: Who
    honest: bool
    clicks: Callable[[Sequence[str]], list[int]]


@dataclass(frozen=True, slots=True)
class Farm:
    """`queries` are what it searches."""

    document: str
    queries: Sequence[str]


class Crowd:
    """The visits of the nights, which must be taken in order.

    Honest people ask the same and look and click by the same draws in every life of the same seed, whoever else comes.
    """

    def __init__(self, plan: Plan, right: Right) -> None:
        self._plan = plan
        self._right = right
        self._texts = sorted(right)
        self._robots = Random(plan.seed)
        self._paid = Random(f"farms {plan.seed}")

    def size(self, farms: Sequence[Farm]) -> int:
        """Visits of a day."""
        return self._plan.sessions + (int(self._plan.sessions * self._paid_each()) if farms else 0)

    def day(self, number: int, farms: Sequence[Farm]) -> Iterator[Visit]:
        """Farms pay evenly over the day, in turns; the clicks of a visit must be drawn before the next one is taken."""
        paid = 0
        for session, visit in enumerate(self._unpaid(number), 1):
            yield visit
            while farms and paid < int(session * self._paid_each()):
                yield self._push(farms, number, paid)
                paid += 1

    def _paid_each(self) -> float:
        """Paid visits for each other one."""
        return self._plan.farm_share / (1 - self._plan.farm_share)

    def _unpaid(self, number: int) -> Iterator[Visit]:
        plan = self._plan
        crowd = people(plan.people, plan.seed * 1000 + number, plan.position_bias, noise=plan.noise)
        robots = max(round(plan.sessions * plan.bots / BOT_SESSIONS), 1)
        for session, query in enumerate(crowd.queries(plan.sessions, len(self._texts))):
            text = self._texts[query]
            if self._robots.random() < plan.bots:
                who = Who(client_id=f"bot {number}-{self._robots.randrange(robots)}")
                yield Visit(text, who, False, self._click_anything)
            else:
                right = self._right[text]
                clicks = crowd.senseless_clicks if plan.senseless else lambda ids, right=right: crowd.clicks(ids, right)
                yield Visit(text, Who(client_id=f"{number}-{session}"), True, clicks)

    def _click_anything(self, shown: Sequence[str]) -> list[int]:
        return [rank for rank in range(1, len(shown) + 1) if self._robots.random() < BOT_CLICKS]

    def _push(self, farms: Sequence[Farm], night: int, visit: int) -> Visit:
        which = visit % len(farms)
        farm, person = farms[which], self._paid.randrange(FARM_PEOPLE)
        who = f"farm {which}: {night}-{visit}" if self._plan.rotating else f"farm {which}: {person}"
        text = self._paid.choice(farm.queries)
        return Visit(text, Who(client_id=who), False, partial(_click_only, farm.document))


def _click_only(document: str, shown: Sequence[str]) -> list[int]:
    return [shown.index(document) + 1] if document in shown else []


def shown_low(ranked: Mapping[str, Sequence[str]], right: Right) -> dict[str, list[str]]:
    """For each document the queries that show it on ranks 5 to 10 and that it does not answer."""
    low: dict[str, list[str]] = {}
    for text, ids in ranked.items():
        for id_ in ids[LOW]:
            if id_ not in right[text]:
                low.setdefault(id_, []).append(text)
    return low


def hire(count: int, low: Mapping[str, Sequence[str]], seed: int) -> list[Farm]:
    """Farms that push documents drawn from those that the most queries show low: they have the longest lever."""
    popular = sorted(low, key=lambda id_: (-len(low[id_]), id_))[: POPULAR * count]
    drawn = Random(seed).sample(popular, min(count, len(popular)))
    return [Farm(id_, low[id_]) for id_ in drawn]
