"""Logs of single results, to count and to judge."""

import polars as pl

from clickloop.retriever.search import RANKER

SCHEMA = {
    "search": pl.Int64,
    "query": pl.String,
    "person": pl.String,
    "document_id": pl.String,
    "rank": pl.Int64,
    "clicked": pl.Boolean,
}
Row = tuple[str, str, str, int, bool]


def log_of(rows: list[Row]) -> pl.DataFrame:
    """Every row is a search of its own, so that nothing was clicked above."""
    log = pl.DataFrame([(search, *row) for search, row in enumerate(rows)], schema=SCHEMA, orient="row")
    return log.with_columns(ranker=pl.lit(RANKER))
