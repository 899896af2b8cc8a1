"""Logs of single results and of simulated people, to count, to judge and to fit."""

from functools import cache

import numpy as np
import polars as pl

from clickloop.retriever.search import RANKER
from clickloop.trainer.people import people

SCHEMA = {
    "search": pl.Int64,
    "query": pl.String,
    "person": pl.String,
    "document_id": pl.String,
    "rank": pl.Int64,
    "clicked": pl.Boolean,
}
Row = tuple[str, str, str, int, bool]
RIGHT = {"d0", "d1"}
QUERIES, DOCUMENTS, SESSIONS = 60, 12, 3_000


def log_of(rows: list[Row]) -> pl.DataFrame:
    """Every row is a search of its own, so that nothing was clicked above."""
    log = pl.DataFrame([(search, *row) for search, row in enumerate(rows)], schema=SCHEMA, orient="row")
    return log.with_columns(ranker=pl.lit(RANKER))


def crowd(document_id: str, views: int, clicks: int, rank: int = 1) -> list[Row]:
    """`views` people saw the document at this rank, `clicks` of them clicked it."""
    return [("q", f"{document_id} {rank} {i}", document_id, rank, i < clicks) for i in range(views)]


@cache
def simulated(seed: int, bias: float, kind: str = "position") -> pl.DataFrame:
    """Everybody asks once. Each query has two right documents; its ranking changes a little from search to search."""
    random = np.random.default_rng(seed)
    crowd = people(kind, seed, bias=bias)
    rows = []
    ranking = {query: random.permutation(DOCUMENTS) for query in range(QUERIES)}
    for person, query in enumerate(crowd.queries(SESSIONS, QUERIES)):
        moved = np.argsort(np.arange(DOCUMENTS) + random.normal(scale=3, size=DOCUMENTS))
        shown = [f"d{document}" for document in ranking[query][moved][:10]]
        clicked = crowd.clicks(shown, RIGHT)
        rows += [(person, f"q{query}", f"p{person}", d, rank, rank in clicked) for rank, d in enumerate(shown, start=1)]
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def scored(seed: int, size: float) -> pl.DataFrame:
    """A simulated log with scores, by which right documents stand out of their lists by `size` on average."""
    log, random = simulated(seed, 1.0), np.random.default_rng(seed)
    right = log["document_id"].is_in(list(RIGHT)).to_numpy()
    return log.with_columns(score=pl.Series(0.3 + size * right + random.normal(scale=0.1, size=len(log))))
