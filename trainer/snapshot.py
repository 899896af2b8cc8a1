"""The log as a night sees it: everything that had arrived when the night began, one row per shown result."""

import hashlib
import re
import unicodedata
from dataclasses import dataclass

import polars as pl
from sqlalchemy import case, func, select

from ..retriever.database import Database, highest
from ..retriever.schema import events, searches, shown

CLICKS = ("click", "add_to_cart", "purchase")  # later actions follow a click
SCHEMA = {
    "search": pl.Int64,
    "query": pl.String,
    "text": pl.String,
    "person": pl.String,
    "day": pl.Int64,  # since the epoch, UTC
    "release": pl.String,
    "document_id": pl.String,
    "rank": pl.Int64,
    "ranker": pl.String,
    "propensity": pl.Float64,
    "score": pl.Float64,  # by the release; null where another model gave the result
    "clicked": pl.Boolean,
    "level": pl.Int64,  # of the furthest action: 0 none, then as in CLICKS from 1
}
# Who searched, as far as the app tells; without that every search is somebody else's.
PERSON = func.coalesce(searches.c.user_id, searches.c.client_id, searches.c.session_id, searches.c.query_id)
LEVEL = case({action: level for level, action in enumerate(CLICKS, 1)}, value=events.c.action)
SECONDS_A_DAY = 86_400.0
SMALL_WORDS = frozenset(
    ("a", "an", "and", "for", "from", "how", "i", "in", "into", "is", "it", "my", "of", "on", "or", "the", "to", "with")
)


@dataclass(frozen=True, slots=True)
class Bounds:
    """The newest search and event that belong to a run, in order of arrival."""

    search: int
    event: int


def bounds_now(database: Database) -> Bounds:
    with database.read() as connection:
        return Bounds(highest(connection, searches.c.seq), highest(connection, events.c.seq))


def read_log(database: Database, bounds: Bounds, after: int = 0) -> pl.DataFrame:
    """Impressions (`SCHEMA`) plus `cluster`, sorted by search and rank; only searches later than number `after`.

    `text` is what was asked; `query` is normalised: what is asked again in other case or spacing is the same query. A
    cluster holds its near-duplicates. Events of unknown queries, of documents that were not shown, and with other
    actions than CLICKS do not appear.
    """
    impressions = (
        select(
            searches.c.seq.label("search"),
            searches.c.query,
            searches.c.query.label("text"),
            PERSON.label("person"),
            (searches.c.arrived_at / SECONDS_A_DAY).label("day"),
            searches.c.query_id,
            searches.c.release_id.label("release"),
            shown.c.document_id,
            shown.c.rank,
            shown.c.ranker,
            shown.c.propensity,
            shown.c.score,
        )
        .join(shown, shown.c.search_seq == searches.c.seq)
        .where(searches.c.seq > after, searches.c.seq <= bounds.search)
        .order_by(searches.c.seq, shown.c.rank)
    )
    clicks = (
        select(events.c.query_id, events.c.document_id, func.max(LEVEL).label("level"))
        .where(events.c.seq <= bounds.event, events.c.action.in_(CLICKS))
        .group_by(events.c.query_id, events.c.document_id)
    )
    with database.read() as connection:
        seen = pl.read_database(impressions, connection, infer_schema_length=None)
        clicked = pl.read_database(clicks, connection, infer_schema_length=None)
    if seen.is_empty():
        return pl.DataFrame(schema={**SCHEMA, "cluster": pl.String})
    if clicked.is_empty():
        joined = seen.with_columns(clicked=pl.lit(False), level=pl.lit(0))
    else:
        joined = seen.join(
            clicked.with_columns(clicked=pl.lit(True)),
            on=["query_id", "document_id"],
            how="left",
            maintain_order="left",
        ).with_columns(pl.col("clicked").fill_null(False), pl.col("level").fill_null(0))
    frame = joined.select(pl.col(name).cast(kind) for name, kind in SCHEMA.items())
    texts = frame.select(pl.col("query").unique())
    named = texts.with_columns(
        normal=pl.Series([normalised(text) for text in texts["query"]]),
        cluster=pl.Series([cluster_of(text) for text in texts["query"]]),
    )
    joined = frame.join(named, on="query", how="left", maintain_order="left")
    return joined.with_columns(query=pl.col("normal")).drop("normal")


def first_clusters(database: Database, bounds: Bounds) -> pl.DataFrame:
    """`person` and the cluster of the first search of theirs that ever arrived (`first_cluster`)."""
    firsts = select(func.min(searches.c.seq)).where(searches.c.seq <= bounds.search).group_by(PERSON)
    statement = select(PERSON.label("person"), searches.c.query).where(searches.c.seq.in_(firsts))
    with database.read() as connection:
        rows = connection.execute(statement).all()
    return pl.DataFrame(
        {"person": [row.person for row in rows], "first_cluster": [cluster_of(row.query) for row in rows]},
        schema={"person": pl.String, "first_cluster": pl.String},
    )


def wordings(log: pl.DataFrame) -> dict[str, str]:
    """For each query the text in which it was asked most often: what the encoder reads."""
    counted = log.group_by("query", "text").agg(pl.col("search").n_unique())
    ordered = counted.sort("query", "search", "text", descending=[False, True, False])
    return dict(ordered.group_by("query", maintain_order=True).first().select("query", "text").rows())


def ever_clicked(database: Database, bounds: Bounds) -> dict[str, set[str]]:
    """The documents that anybody ever clicked for a query, in the whole history: never its negatives."""
    clicks = (
        select(searches.c.query, events.c.document_id)
        .join(events, events.c.query_id == searches.c.query_id)
        .where(events.c.seq <= bounds.event, events.c.action.in_(CLICKS))
        .distinct()
    )
    clicked: dict[str, set[str]] = {}
    with database.read() as connection:
        for query, document_id in connection.execute(clicks):
            clicked.setdefault(normalised(query), set()).add(document_id)
    return clicked


def normalised(query: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", query).casefold().split())


def cluster_of(query: str) -> str:
    """The same text for queries that differ only in case, punctuation, order, plural s or small words."""
    words = re.findall(r"\w+|[^\w\s]+", normalised(query))
    kept = [_stem(word) for word in words if word[0].isalnum() and word not in SMALL_WORDS]
    return " ".join(sorted(set(kept))) or " ".join(sorted(words))


def fingerprint(log: pl.DataFrame) -> str:
    """SHA-256 of the impressions and clicks, so that a report says which data a run saw."""
    rows = log.select("search", "rank", "document_id", "level").hash_rows(seed=0)
    return hashlib.sha256(rows.to_numpy().tobytes()).hexdigest()


def _stem(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word
