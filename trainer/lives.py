"""Whole lives of the gate, simulated: is it ever wrong, and how soon does it find a real gain?

The functions that decide at night decide here too; only the measurements are drawn. No clicks are involved.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from .clicks import MIN_LIFT
from .evaluate import DEPTH
from .gate import Challenger, Decision, ask_people, decide, follow, screen, stronger, unheard
from .recipe import Promotion
from .sample import Sample
from .votes import Votes

T = TypeVar("T")
BLOCK = 50  # units that are drawn together
BANK = 20_000  # blocks to draw from
CHUNK = 50  # lives that one task simulates
VOTING = 0.4  # of the people who see a challenger and the champion differ
LIKED = 0.8  # share of right results looked at that are clicked
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Differences:
    """Per-unit differences of two models: a share `changed` of the queries moves, by up to `reach` either way, as often
    up as makes the mean `mean`. With `skewed`, 2 % fall by 1 and 25 % gain .08 instead, which has mean 0. A unit is the
    mean of `cluster` queries whose correlation is 1/2.
    """

    changed: float = 0.33
    reach: float = 0.784
    mean: float = 0.0
    skewed: bool = False
    cluster: int = 1

    def units(self, random: np.random.Generator, count: int) -> Floats:
        """Differences, the moments that noise alone gives to them, and what they may lose: (count, 4)."""
        return np.stack([self.draw(random, count), np.zeros(count), np.zeros(count), np.ones(count)], axis=1)

    def draw(self, random: np.random.Generator, count: int) -> Floats:
        if self.cluster == 1:
            return self._queries(random, (count,))
        common = self._queries(random, (count, 1))
        own = self._queries(random, (count, self.cluster))
        shared = random.random(own.shape) < np.sqrt(0.5)
        return np.asarray(np.where(shared, common, own).mean(axis=1))

    def _queries(self, random: np.random.Generator, shape: tuple[int, ...]) -> Floats:
        chance = random.random(shape)
        if self.skewed:
            return np.where(chance < 0.02, -1.0, np.where(chance < 0.27, 0.08, 0.0))
        size = random.random(shape) * self.reach
        upwards = random.random(shape) < 0.5 + self.mean / (self.changed * self.reach)
        return np.where(chance < self.changed, np.where(upwards, size, -size), 0.0)


@dataclass(frozen=True, slots=True)
class Rare:
    """Corrected gains of a candidate that is not better, of queries that one person each asked, who looks at rank r
    with 1/r and clicks `noise` of what is wrong there and LIKED of what is right. It shows what nobody was shown from
    rank `first` on, where 3 % were right, and in `up` of the queries puts the right document of rank 2 on top. Most
    queries hold no click on what it lost, each of which counts for several lost documents.
    """

    noise: float = 0.1
    first: int = 8
    up: float = 0.7

    def units(self, random: np.random.Generator, count: int) -> Floats:
        """Differences, the second and third central moments that noise alone gives to them, and what they may lose:
        (count, 4).
        """
        looked, discount = 1 / np.arange(1, DEPTH + 1), 1 / np.log2(np.arange(2, DEPTH + 2))
        share = np.array([0.4, 0.15, *[0.05] * (self.first - 3), *[0.03] * (DEPTH + 1 - self.first)])
        right = random.random((count, DEPTH)) < share
        new = np.tile(np.where(np.arange(1, DEPTH + 1) < self.first, discount, 0.0), (count, 1))
        raised = right[:, 1] & ~right[:, 0] & (random.random(count) < self.up)
        new[raised, 0], new[raised, 1] = discount[1], discount[0]
        clicks = random.random((count, DEPTH)) < looked * np.where(right, LIKED, self.noise)
        lift = np.maximum((LIKED - self.noise) * looked, MIN_LIFT * (LIKED - self.noise))
        gain = (clicks - self.noise * looked) / lift
        moved, clicked = new - discount, self.noise * looked
        squares = moved**2 * clicked * (1 - clicked) / lift**2
        parts = moved * gain, squares, squares * moved * (1 - 2 * clicked) / lift
        loss = np.maximum((-moved / lift).max(axis=1), 1)
        return np.stack([*(part.sum(axis=1) for part in parts), loss], axis=1)


# Standard deviations as between a base and a tuned model (.26), and between one night's model and the next (.10).
WIDE = Differences()
NARROW = Differences(changed=0.17, reach=0.42)


@dataclass(frozen=True, slots=True)
class World:
    """Candidates like `null`, and on a share `better_nights` of the nights like `better`.

    `blocks` of 50 units judge a candidate, a third as many (3 at least) are its development split. A share `reused` of
    them judged last night too, and in a share `kept` of these the next candidate differs as the last did. `people`
    tell their preference about a challenger every night: VOTING of them have one, for or against it, each about a query
    of their own but for a share `trend`, who all ask the query of that day and agree.
    """

    null: Differences | Rare = WIDE
    better: Differences = WIDE
    better_nights: float = 0.0
    blocks: int = 20
    reused: float = 0.0
    kept: float = 0.0
    people: int = 0
    trend: float = 0.0


class Bank:
    """Sums of ready-made blocks, so that a night is a sum of sums."""

    def __init__(self, differences: Differences | Rare, seed: int) -> None:
        units = differences.units(np.random.default_rng(seed), BANK * BLOCK).reshape(BANK, BLOCK, 4)
        values, variance, third, loss = np.moveaxis(units, -1, 0)
        summed = values, values**2, values**3, variance, third, loss**2, loss**3
        self._sums = np.stack([part.sum(axis=1) for part in summed], axis=1)
        self._largest = float(np.abs(values).max())
        # A symmetric null is drawn with either sign: its mean is then 0 exactly, not only that of the bank.
        self._signed = isinstance(differences, Differences) and differences.mean == 0 and not differences.skewed

    def draw(self, random: np.random.Generator, *shape: int) -> Floats:
        """Sums of random blocks, as a sample has them but for the largest: (…, 7)."""
        found: Floats = self._sums[random.integers(BANK, size=shape)]
        if self._signed:
            found[..., :3:2] *= random.choice((-1.0, 1.0), size=(*shape, 1))
        return found

    def sample(self, blocks: Floats) -> Sample:
        total, squares, cubes, *noise = blocks.sum(axis=0).tolist()
        return Sample(len(blocks) * BLOCK, total, squares, cubes, self._largest, *noise)


class Gatekeeper:
    """The looks of a service and its challenger, in the order in which a night treats them."""

    def __init__(self, dials: Promotion, *, people: bool) -> None:
        """`people` are shown the results of a challenger."""
        self._dials = dials
        self._people = people
        self._looks = 0
        self.challenger: Challenger | None = None

    def hear(self, queries: Sample, people: Votes, lists: Sample | None = None) -> bool:
        """One more night of the challenger with queries that are fresh, and all votes and lists so far. Whether it is
        promoted; it may also end. Without `lists` votes suffice, which errs more often.
        """
        assert self.challenger is not None
        before = self.challenger
        added = before.queries + queries
        heard = replace(before, nights=before.nights + 1, queries=added, people=people, lists=lists)
        decision = follow(heard, self._dials)
        self.challenger = heard if decision.open else None
        if decision.outcome == "promoted" and self._people:
            self._follow(unheard((), self._looks))
        return decision.outcome == "promoted"

    def offer(self, development: Sample, holdout: Sample) -> bool:
        """A new candidate. Whether it is promoted; it may also become the challenger."""
        decision = screen(development)
        if decision is None:
            decision = decide(holdout, self._looks, self._dials)
        elif self.challenger is None and self._people:  # enough of them judge here
            decision = ask_people(decision, self._looks)
        self._follow(decision)
        if decision.outcome == "promoted":
            self.challenger = None
        return decision.outcome == "promoted"

    def _follow(self, decision: Decision) -> None:
        self._looks = max(self._looks, decision.look)
        if decision.open and stronger(decision.sample, self.challenger):
            assert isinstance(decision.sample, Sample)  # of queries: nobody has voted yet
            self.challenger = Challenger(decision.look, 1, decision.sample, looked=decision.level > 0)


@dataclass(frozen=True, slots=True)
class Promoted:
    night: int
    really_better: bool


class Life:
    """One service's nights. `banks`: of candidates that are not better and of those that are."""

    def __init__(self, world: World, banks: tuple[Bank, Bank], random: np.random.Generator, dials: Promotion) -> None:
        self._world, self._banks, self._random = world, banks, random
        self._gatekeeper = Gatekeeper(dials, people=world.people > 0)
        self.follows_better = False  # the challenger is really better
        self._fresh = round(world.blocks * (1 - world.reused))
        self._last = banks[0].draw(random, world.blocks)

    def night(self, better: bool) -> bool | None:
        """Whether what was promoted is really better; None when nothing was promoted."""
        gatekeeper, really = self._gatekeeper, self.follows_better
        if gatekeeper.challenger is not None:
            bank = self._banks[really]
            votes = gatekeeper.challenger.people + self._votes()
            promoted = gatekeeper.hear(bank.sample(bank.draw(self._random, self._fresh)), votes)
            self.follows_better = (better if promoted else really) and gatekeeper.challenger is not None
            if promoted:
                return really
        before = gatekeeper.challenger
        holdout, development = self._measure(better)
        promoted = gatekeeper.offer(development, holdout)
        if gatekeeper.challenger is not before:
            self.follows_better = better and not promoted
        return better if promoted else None

    def _votes(self) -> Votes:
        people = self._world.people
        voters = self._random.binomial(people, VOTING)
        together = round(self._world.trend * voters)
        leads = [*self._random.choice((-1, 1), size=voters - together), together * self._random.choice((-1, 1))]
        return Votes.of(people, [int(lead) for lead in leads])

    def _measure(self, better: bool) -> tuple[Sample, Sample]:
        bank, world = self._banks[better], self._world
        blocks = bank.draw(self._random, world.blocks)
        if world.reused:
            again = np.arange(world.blocks) >= self._fresh
            same = again & (self._random.random(world.blocks) < world.kept)
            blocks[same] = self._last[same]
        self._last = blocks
        early = bank.draw(self._random, max(world.blocks // 3, 3))
        return bank.sample(blocks), bank.sample(early)


def _untold(_lives: int) -> None:
    """Nobody asks how far it is."""


def wrong_lives(
    world: World, days: Sequence[int], lives: int, dials: Promotion, done: Callable[[int], None] = _untold
) -> list[float]:
    """Share of lives that ever promoted what is not better, within the first of `days`, the second, …; `done` hears
    how many have been lived.
    """
    every = _spread(lives, done, _promotions, world, max(days), dials)
    return [sum(any(p.night <= d and not p.really_better for p in life) for life in every) / lives for d in days]


def power(
    world: World, dry: int, nights: Sequence[int], runs: int, dials: Promotion, done: Callable[[int], None] = _untold
) -> list[float]:
    """Share of runs in which a better candidate was promoted within the first of `nights`, the second, …; `done` hears
    how many are over.
    """
    waits = _spread(runs, done, _found_after, world, dry, max(nights), dials)
    return [sum(wait is not None and wait <= n for wait in waits) / runs for n in nights]


def _promotions(world: World, nights: int, dials: Promotion, seeds: Sequence[int]) -> list[list[Promoted]]:
    """What every one of these lives promoted, and when."""
    banks = Bank(world.null, 1), Bank(world.better, 2)
    lives = []
    for seed in seeds:
        random = np.random.default_rng([3, seed])
        life = Life(world, banks, random, dials)
        found = []
        for night in range(1, nights + 1):
            really = life.night(bool(random.random() < world.better_nights))
            if really is not None:
                found.append(Promoted(night, really))
        lives.append(found)
    return lives


def _found_after(world: World, dry: int, within: int, dials: Promotion, seeds: Sequence[int]) -> list[int | None]:
    """After `dry` nights of no gain a better candidate comes, every night anew until one is followed, and then none any
    more: how many nights until it is promoted, if ever.
    """
    banks = Bank(world.null, 1), Bank(world.better, 2)
    waits: list[int | None] = []
    for seed in seeds:
        random = np.random.default_rng([4, seed])
        life = Life(world, banks, random, dials)
        for _ in range(dry):
            life.night(better=False)
        waits.append(next((n for n in range(1, within + 1) if life.night(not life.follows_better)), None))
    return waits


def _spread(count: int, done: Callable[[int], None], work: Callable[..., list[T]], *given: Any) -> list[T]:
    """Results of seeds 0 to `count`, on all cores; what a seed gives depends on nothing else."""
    chunks = [range(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        parts = [pool.submit(work, *given, seeds) for seeds in chunks]
        results: list[T] = []
        for part in parts:
            results += part.result()
            done(len(results))
        return results
