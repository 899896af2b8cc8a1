"""Who judges and who teaches: by query cluster and by person, the same in every night.

Clusters are drawn by a hash. A person judges if the first search of theirs that ever arrived belongs to the holdout,
and teaches otherwise: nobody does both, and of the short visits that make up most logs hardly a search is lost. Whoever
begins as many others do, as where an app searches by itself when it opens, is drawn by a hash of their own instead: the
hash of one cluster would make everybody teach, or everybody judge.
"""

import hashlib

import polars as pl

from .recipe import Split

# What a person's search of a cluster is for; no cluster is in two of the first three.
TRAINING, DEVELOPMENT, HOLDOUT, NOTHING = range(4)
# Many people begin with a cluster if so many did before, and they are more than this share of all. Below it the roles
# even out over the clusters, and nothing is lost of people who search once.
MANY, MANY_SHARE = 20, 0.05


def who_judges(log: pl.DataFrame, shares: Split, begun: pl.DataFrame | None = None) -> pl.DataFrame:
    """`person`, whether they judge (`judges`) and what they began with (`opening`, a cluster by number), of all who
    search first in this log. `begun`: how many `people` began with each `opening` before.

    In the order of arrival each is judged by those before them, so it does not matter how the log is cut into nights.
    """
    before = pl.DataFrame(schema={"opening": pl.UInt64, "people": pl.Int64}) if begun is None else begun
    searches = log.select("search", "person", "cluster").unique().sort("search")
    firsts = searches.unique("person", keep="first", maintain_order=True)
    firsts = firsts.select("person", opening=numbers(firsts["cluster"]))
    alike = pl.col("people").fill_null(0) + pl.int_range(pl.len()).over("opening")
    known = before["people"].sum() + pl.int_range(pl.len())
    many = (alike >= MANY) & (alike > MANY_SHARE * known)
    counted = firsts.join(before, on="opening", how="left", maintain_order="left").with_columns(many=many)
    own = counted.select(pl.when("many").then(numbers(counted["person"])).otherwise("opening")).to_series()
    return counted.select("person", "opening", judges=draws(own) < shares.holdout)


def split(log: pl.DataFrame, judges: pl.DataFrame, shares: Split) -> pl.DataFrame:
    """The log with `part`; `judges` as by `who_judges`, of everybody in it."""
    draw = draws(numbers(log["cluster"]))
    held_out = draw < shares.holdout
    developed = ~held_out & (draw < shares.holdout + shares.development)
    taught = pl.when(developed).then(DEVELOPMENT).otherwise(TRAINING)
    part = pl.when(held_out != pl.col("judges")).then(NOTHING).when(held_out).then(HOLDOUT).otherwise(taught)
    roles = judges.select("person", "judges")
    return log.join(roles, on="person", maintain_order="left").with_columns(part=part.cast(pl.Int8)).drop("judges")


def untaught(log: pl.DataFrame, taught: pl.Series, shares: Split) -> pl.DataFrame:
    """Searches, of whomever, that say something new about a model which searches of these clusters (by number) taught:
    those of the holdout, and those of other clusters.
    """
    clusters = numbers(log["cluster"])
    return log.filter((draws(clusters) < shares.holdout) | ~clusters.is_in(taught.implode()))


def draw(cluster: str) -> float:
    """A number in [0, 1) that belongs to this cluster for ever."""
    return number(cluster) / 2**64


def number(text: str) -> int:
    """64 bits that stand for this text for ever."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])


def numbers(texts: pl.Series) -> pl.Series:
    """The number of each text."""
    known = texts.unique()
    values = pl.Series([number(value) for value in known], dtype=pl.UInt64)
    return texts.replace_strict(known, values).cast(pl.UInt64)  # of an empty series it keeps the type


def draws(numbers: pl.Series) -> pl.Series:
    """The draw of each cluster, by its number."""
    return numbers.cast(pl.Float64) / 2.0**64
