"""What people prefer, read from lists that were drafted from two rankings."""

from collections import Counter
from collections.abc import Iterable, Mapping

import polars as pl

from ..retriever.search import against
from .votes import Vote


def preferences(log: pl.DataFrame, release_id: str) -> Mapping[str, Vote]:
    """The vote of every person who saw the champion and this release differ. In each list counts whose results they
    clicked more, and then in how many lists they preferred which. Of the query clusters that agree with it a vote is
    about the one that most people asked.
    """
    theirs, ours = pl.col("ranker") == against(release_id), pl.col("ranker") == release_id
    lists = (
        drafted(log, release_id)
        .filter(ours | theirs)
        .group_by("search", "person", "cluster", maintain_order=True)
        .agg(lead=(pl.col("clicked") & ours).sum().cast(pl.Int64) - (pl.col("clicked") & theirs).sum().cast(pl.Int64))
        .with_columns(
            vote=pl.col("lead").sign().sum().over("person").sign(),
            asked=pl.col("person").n_unique().over("cluster"),
        )
    )
    people = (
        lists.sort(pl.col("lead").sign() == pl.col("vote"), "asked", "cluster", descending=True, maintain_order=True)
        .group_by("person", maintain_order=True)
        .agg(pl.col("vote", "cluster").first())
    )
    return {person: Vote(vote, str(cluster)) for person, vote, cluster in people.rows()}


def drafted(log: pl.DataFrame, release_id: str) -> pl.DataFrame:
    """The searches that were answered from both the champion and this release, of people who asked this for the first
    time (`first`, where the log says so): whoever asks again has passed over what was shown, mostly by the champion.
    """
    both = pl.col("ranker").is_in([against(release_id), release_id])
    first = pl.col("first") if "first" in log.columns else pl.lit(True)
    return log.filter(both.any().over("search") & first)


def leads(votes: Iterable[Vote]) -> Counter[str]:
    """Of every query cluster with a vote."""
    found: Counter[str] = Counter()
    for vote in votes:
        if vote.value:
            found[vote.cluster] += vote.value
    return found
