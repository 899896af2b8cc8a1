"""Who judges and who teaches: by query cluster and by person, the same in every night.

Clusters are drawn by a hash. A person judges if the first search of theirs that ever arrived belongs to the holdout,
and teaches otherwise: nobody does both, and of the short visits that make up most logs hardly a search is lost.
"""

import hashlib

import polars as pl

from .recipe import Split

# What a person's search of a cluster is for; no cluster is in two of the first three.
TRAINING, DEVELOPMENT, HOLDOUT, NOTHING = range(4)


def who_judges(log: pl.DataFrame, shares: Split) -> pl.DataFrame:
    """`person` and whether they judge (`judges`), of all who search first in this log."""
    firsts = log.select("search", "person", "cluster").unique().sort("search").unique("person", keep="first")
    return firsts.select("person", judges=draws(numbers(firsts["cluster"])) < shares.holdout)


def split(log: pl.DataFrame, judges: pl.DataFrame, shares: Split) -> pl.DataFrame:
    """The log with `part`; `judges` as by `who_judges`, of everybody in it."""
    draw = draws(numbers(log["cluster"]))
    held_out = draw < shares.holdout
    developed = ~held_out & (draw < shares.holdout + shares.development)
    taught = pl.when(developed).then(DEVELOPMENT).otherwise(TRAINING)
    part = pl.when(held_out != pl.col("judges")).then(NOTHING).when(held_out).then(HOLDOUT).otherwise(taught)
    return log.join(judges, on="person", maintain_order="left").with_columns(part=part.cast(pl.Int8)).drop("judges")


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
