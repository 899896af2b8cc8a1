"""Who judges and who teaches: by query cluster and by person, the same in every night.

Clusters are drawn by a hash. A person judges if the first search of theirs that ever arrived belongs to the holdout,
and teaches otherwise: nobody does both, and of the short visits that make up most logs hardly a search is lost.
"""

import hashlib
from dataclasses import dataclass

import polars as pl

from .recipe import Split


@dataclass(frozen=True, slots=True)
class Parts:
    """Impressions by use: `training` and `development` of those who teach, `holdout` of those who judge; no cluster is
    in two of them.
    """

    training: pl.DataFrame
    development: pl.DataFrame
    holdout: pl.DataFrame


def split(log: pl.DataFrame, first_clusters: pl.DataFrame, shares: Split) -> Parts:
    """`first_clusters` says for each `person` the `first_cluster` they ever searched."""
    drawn = log.join(_draws(log["cluster"], "cluster", "draw"), on="cluster", maintain_order="left")
    firsts = first_clusters.join(
        _draws(first_clusters["first_cluster"], "first_cluster", "first_draw"),
        on="first_cluster",
        maintain_order="left",
    )
    drawn = drawn.join(firsts.select("person", "first_draw"), on="person", maintain_order="left")
    judges = pl.col("first_draw") < shares.holdout
    held_out = pl.col("draw") < shares.holdout
    developed = ~held_out & (pl.col("draw") < shares.holdout + shares.development)
    return Parts(
        training=drawn.filter(~held_out & ~developed & ~judges).drop("draw", "first_draw"),
        development=drawn.filter(developed & ~judges).drop("draw", "first_draw"),
        holdout=drawn.filter(held_out & judges).drop("draw", "first_draw"),
    )


def untaught(log: pl.DataFrame, taught_until: int, shares: Split) -> pl.DataFrame:
    """Searches later than number `taught_until`, of whomever, that say something new about a model which the earlier
    ones taught: those of the holdout, and those of clusters that nobody had searched before.
    """
    taught = log.filter(pl.col("search") <= taught_until)["cluster"].unique()
    later = log.filter(pl.col("search") > taught_until)
    drawn = later.join(_draws(later["cluster"], "cluster", "draw"), on="cluster", maintain_order="left")
    new = (pl.col("draw") < shares.holdout) | ~pl.col("cluster").is_in(taught.implode())
    return drawn.filter(new).drop("draw")


def draw(cluster: str) -> float:
    """A number in [0, 1) that belongs to this cluster for ever."""
    digest = hashlib.sha256(cluster.encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64


def _draws(clusters: pl.Series, key: str, name: str) -> pl.DataFrame:
    values = clusters.unique()
    numbers = pl.Series(name, [draw(value) for value in values], dtype=pl.Float64)
    return pl.DataFrame({key: values, name: numbers})
