"""Who judges and who teaches: by query cluster and by person, the same in every night.

Both are drawn by a hash, so that what once judged is never trained on later. Within a run, only what had arrived when
it began is used.
"""

import hashlib
from dataclasses import dataclass

import polars as pl

from .recipe import Split


@dataclass(frozen=True, slots=True)
class Parts:
    """Impressions by use: `training` and `development` of learners, `holdout` of judges; no cluster is in two."""

    training: pl.DataFrame
    development: pl.DataFrame
    holdout: pl.DataFrame


def split(log: pl.DataFrame, shares: Split) -> Parts:
    clusters = _draws(log, "cluster", "cluster_draw")
    people = _draws(log, "person", "person_draw")
    drawn = log.join(clusters, on="cluster", maintain_order="left").join(people, on="person", maintain_order="left")
    judges = pl.col("person_draw") < shares.judges
    held_out = pl.col("cluster_draw") < shares.holdout
    developed = ~held_out & (pl.col("cluster_draw") < shares.holdout + shares.development)
    extra = ("cluster_draw", "person_draw")
    return Parts(
        training=drawn.filter(~held_out & ~developed & ~judges).drop(extra),
        development=drawn.filter(developed & ~judges).drop(extra),
        holdout=drawn.filter(held_out & judges).drop(extra),
    )


def draw(kind: str, name: str) -> float:
    """A number in [0, 1) that belongs to this name for ever."""
    digest = hashlib.sha256(f"{kind}\x00{name}".encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64


def _draws(log: pl.DataFrame, column: str, name: str) -> pl.DataFrame:
    values = log.select(pl.col(column).unique())
    numbers = [draw(column, value) for value in values[column]]
    return values.with_columns(pl.Series(name, numbers, dtype=pl.Float64))
