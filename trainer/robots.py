"""Robots and click farms: whose searches teach nothing, told by what they do.

The tests are likelihood ratios of a robot against people of this log at their most clicking. If these are as the click
model says, the expectation of a ratio is at most 1, so that by Markov's inequality any of n ratios exceeds
n / FALSE_ALARMS with a chance of at most FALSE_ALARMS (e-values: Vovk and Wang 2021; the correction is Bonferroni's).
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import polars as pl

from .click_fit import fit
from .tally import count_people

FALSE_ALARMS = 1e-3  # the chance of even one in a log, for each test
RATES = (0.25, 0.5, 0.9)  # at which a robot may click whatever it wants clicked
SLACK = 2.0  # examination may be underestimated this many times, in the log's mean or for some queries
ALONE = 0.05  # a farm clicks something else too at most this share as often as others do
TOP = 3  # robots that do not regard the rank show at the ranks below these
MANY = 5  # a list of at least so many results, all of them clicked, tells nothing
FEW = 10  # views or clicks of one document or person that count in any case for what is usual
FEW_SEARCHES = 5  # the same for searches of one query
SAMPLE = 20_000  # searches that examination is estimated from
ROUNDS = 5  # what a farm did to the estimates is gone after the first one or two
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Robots:
    """What was left out: `people` altogether, `searches` of them and of others, and which documents were pushed."""

    people: int = 0
    searches: int = 0
    pushed: list[str] = field(default_factory=list)


def without_robots(log: pl.DataFrame, max_searches: int) -> tuple[pl.DataFrame, Robots]:
    """The log of honest searches, in its order, and what was left out.

    Left out are people with more than `max_searches` searches a day, people who click more, or further down, than those
    who read from the top, lists of which everything was clicked, and searches that push a document.
    """
    kept = log.with_columns(
        first=pl.col("rank").filter("clicked").min().over("search"),
        found=pl.col("clicked").sum().over("search"),
    )
    robots = _busy(kept, max_searches)
    kept = _without(kept, robots, "person")
    pushed: set[str] = set()
    for _ in range(ROUNDS):
        if kept["found"].sum() == 0:
            break
        examination = _examination(kept)
        greedy = pl.concat([_greedy(kept, examination), _regardless(kept)]).unique()
        clicked = kept.filter("clicked").join(_pushed(kept, examination), on="document_id")
        alone = (pl.col("deep") == 1) & (pl.col("found") == 1)
        pushing = clicked.filter(alone | (pl.col("deep") > 1) & (pl.col("rank") >= pl.col("deep")))
        pushers = _pushers(kept, pushing)
        people = pl.concat([greedy, pushers]).unique()
        if people.is_empty() and pushing.is_empty():
            break
        if len(people):  # first, so that what a few people do is not held against a document that others click too
            pushed.update(pushing.join(pushers, on="person", how="semi")["document_id"])
            robots = pl.concat([robots, people])
            kept = _without(kept, people, "person")
        else:
            pushed.update(pushing["document_id"])
            kept = _without(kept, pl.concat([pushing.select("search"), _idle(kept, pushing)]).unique(), "search")
    kept = kept.filter((pl.col("found") < pl.len().over("search")) | (pl.len().over("search") < MANY))
    left = log["search"].n_unique() - kept["search"].n_unique()
    return kept.select(log.columns), Robots(len(robots), left, sorted(pushed))


def evenly(log: pl.DataFrame) -> pl.DataFrame:
    """Of each query cluster at most as many searches, and then of each document as many views, as nine of ten have.

    To fit a click model to, so that a few queries or documents, popular or pushed, do not say how people click.
    """
    searches = log.select("search", "cluster").unique("search", maintain_order=True)
    asked = searches.with_columns(times=pl.len().over("cluster"))
    drawn = asked.filter(_uniform("search") * pl.col("times") < _usual(log, "cluster", FEW_SEARCHES))
    some = log.join(drawn.select("search"), on="search", how="semi", maintain_order="left")
    views = pl.len().over("document_id")
    return some.filter(_uniform("search", "document_id") * views < _usual(some, "document_id", FEW))


def _usual(log: pl.DataFrame, key: str, least: int) -> float:
    """The number of searches that nine of ten of `key` have at most, and at least `least`."""
    counted = log.group_by(key).agg(searches=pl.col("search").n_unique())
    return max(least, float(counted["searches"].quantile(0.9) or 0))


def _busy(log: pl.DataFrame, max_searches: int) -> pl.DataFrame:
    days = log.group_by("person", "day").agg(pl.col("search").n_unique())
    return days.filter(pl.col("search") > max_searches).select("person").unique()


def _examination(log: pl.DataFrame) -> Floats:
    """How often people at most look at each rank, relative to rank 1, if they have clicked nothing above it.

    Read on the way down to the first click, so that it holds for people who stop there too.
    """
    share = SAMPLE / log["search"].n_unique()
    some = log.filter(_uniform("cluster") < share) if share < 1 else log
    return np.minimum(fit(count_people(evenly(some.filter(_on_the_way())))).examination, 1.0)


def _pushed(log: pl.DataFrame, examination: Floats) -> pl.DataFrame:
    """Documents that are pushed, and `deep`: only clicks at ranks that far down tell so, not those above.

    The mean of three e-values: of one kind of evidence, of the other, and of both, their product.
    """
    bound = np.minimum(SLACK * examination, 1.0)
    often = _excess(log.filter(_on_the_way()), "document_id", bound).rename({"evidence": "often"})
    both = often.join(_alone(log), on="document_id").rename({"evidence": "alone"})
    often_, alone = both["often"].to_numpy(), both["alone"].to_numpy()
    evidence = np.logaddexp.reduce([often_, alone, often_ + alone]) - np.log(3)
    visible = 1 + int(np.argmax(bound < 1)) if (bound < 1).any() else len(bound) + 1
    deep = pl.when(pl.Series(alone) > _doubt(len(both))).then(1).otherwise(visible)
    return both.select("document_id", deep=deep).filter(evidence > _doubt(len(both)))


def _greedy(log: pl.DataFrame, examination: Floats) -> pl.DataFrame:
    """People who click more often than others look."""
    people = _excess(log, "person", examination)
    return people.filter(pl.col("evidence") > _doubt(len(people))).select("person")


def _excess(log: pl.DataFrame, key: str, bound: Floats) -> pl.DataFrame:
    """Each of `key` with the `evidence`, a log e-value, that clicks are likelier than `bound` of their rank."""
    rank = np.minimum(log["rank"].to_numpy(), len(bound)) - 1
    clicked = log["clicked"].to_numpy()
    names = [str(rate) for rate in RATES]
    ratios = {}
    for name, rate in zip(names, RATES, strict=True):
        told = bound < rate
        usual, robot = np.where(told, bound, 0.5), np.where(told, rate, 0.5)
        ratios[name] = np.where(clicked, np.log(robot / usual)[rank], np.log((1 - robot) / (1 - usual))[rank])
    sums = log.select(key).with_columns(**ratios).group_by(key, maintain_order=True).agg(pl.col(names).sum())
    evidence = np.logaddexp.reduce(sums.select(names).to_numpy(), axis=1) - np.log(len(RATES))
    return sums.select(key, evidence=pl.Series(evidence))


def _alone(log: pl.DataFrame) -> pl.DataFrame:
    """Each document with the `evidence`, a log e-value, that its clicks come alone unlike those on others.

    One search counts of each query cluster, so that a single query that has one obvious answer says little.
    """
    clicks = log.filter("clicked").unique(["document_id", "cluster"], keep="first", maintain_order=True)
    weight = pl.min_horizontal(FEW / pl.len().over("document_id"), 1.0)
    clicks = clicks.with_columns(alone=pl.col("found") == 1, weight=weight)
    accompanied = (~pl.col("alone") * pl.col("weight")).sum() / pl.col("weight").sum()
    usual = accompanied.over("rank").clip(0, 0.9)
    ratio = pl.when("alone").then(((1 - ALONE * usual) / (1 - usual)).log()).otherwise(float(np.log(ALONE)))
    return clicks.with_columns(ratio=ratio).group_by("document_id").agg(evidence=pl.col("ratio").sum())


def _regardless(log: pl.DataFrame) -> pl.DataFrame:
    """People whose clicks are spread over all ranks, as if these meant nothing."""
    deep = pl.col("rank") > TOP
    shown = float(log.select(deep.mean()).item())
    people = log.filter("clicked").group_by("person").agg(clicks=pl.len(), deep=deep.sum())
    weight = pl.min_horizontal(FEW / pl.col("clicks"), 1.0)
    usual = float(people.select((pl.col("deep") * weight).sum() / (pl.col("clicks") * weight).sum()).item())
    honest = max(SLACK * usual, 0.01)
    if not honest < shown < 1:
        return people.select("person").clear()
    clicks, below = people["clicks"].to_numpy(), people["deep"].to_numpy()
    evidence = below * np.log(shown / honest) + (clicks - below) * np.log((1 - shown) / (1 - honest))
    # Who clicks hardly anything at the top may be looking for what is ranked badly, and has most to teach.
    spread = below < (1 + shown) / 2 * clicks
    return people.filter((evidence > _doubt(len(people))) & spread).select("person")


def _doubt(tests: int) -> float:
    """What a log e-value has to exceed when there are so many."""
    return float(np.log(max(tests, 1) / FALSE_ALARMS))


def _pushers(log: pl.DataFrame, pushing: pl.DataFrame) -> pl.DataFrame:
    """People who pushed more than once, and hardly did anything else."""
    clicking = log.filter(pl.col("found") > 0).group_by("person").agg(all=pl.col("search").n_unique())
    often = pushing.group_by("person").agg(pushed=pl.col("search").n_unique()).filter(pl.col("pushed") > 1)
    return often.join(clicking, on="person").filter(pl.col("pushed") * 2 > pl.col("all")).select("person")


def _idle(log: pl.DataFrame, pushing: pl.DataFrame) -> pl.DataFrame:
    """Searches without a click that show a pushed document where it is pushed: what exceeds the usual number of them
    beside those with other clicks. A farm that does not always click would speak against the right documents.
    """
    place = ["document_id", "rank"]
    rest = _without(log, pushing.select("search"), "search")
    idle = pl.col("found") == 0
    usual = rest.select(idle.sum() / pl.max_horizontal((~idle).sum(), 1)).item()
    places = rest.join(pushing.select(place).unique(), on=place)
    share = usual * (1 + (~idle).sum().over(place)) / idle.sum().over(place)
    return places.filter(idle & (_uniform("search") > share)).select("search").unique()


def _without(log: pl.DataFrame, left_out: pl.DataFrame, key: str) -> pl.DataFrame:
    return log.join(left_out, on=key, how="anti", maintain_order="left")


def _on_the_way() -> pl.Expr:
    return (pl.col("found") == 0) | (pl.col("rank") <= pl.col("first"))


def _uniform(*names: str) -> pl.Expr:
    """A number in [0, 1) that belongs to these values."""
    return pl.struct(*names).hash(seed=0).cast(pl.Float64) / 2.0**64
