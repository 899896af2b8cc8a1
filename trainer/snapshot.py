"""The log as a night sees it: what had arrived when the night began, one row per shown result."""

import hashlib
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import polars as pl
from sqlalchemy import ColumnElement, Connection, Select, Text, case, cast, func, select, text

from ..retriever.database import Database, highest
from ..retriever.errors import InvalidInput
from ..retriever.filters import Filter, parse_filter
from ..retriever.schema import events, searches, shown
from .runs import Bounds

EVERYTHING = ""  # the filter of searches without one
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
    "score": pl.Float64,  # by the release; null where another model gave the result
    "clicked": pl.Boolean,
    "level": pl.Int64,  # of the furthest action: 0 none, then as in CLICKS from 1
    "cluster": pl.String,
    "within": pl.String,  # the filter, see `canonical`; EVERYTHING where there was none
}
WITHIN = func.coalesce(cast(searches.c.filter, Text), EVERYTHING)
# Who searched, as far as the app tells; without that every search is somebody else's.
PERSON = func.coalesce(searches.c.user_id, searches.c.client_id, searches.c.session_id, searches.c.query_id)
# The last rank that is read, so that a night's memory does not grow with k. Further down hardly anybody looks, and
# where relevance adds less than a tenth of the clicks that it adds at best, gains count less and less.
DEEPEST = 50
LEVEL = case({action: level for level, action in enumerate(CLICKS, 1)}, value=events.c.action)
SECONDS_A_DAY = 86_400.0
ROWS = 50_000  # fetched together
NUMBERS = 10_000  # in one statement; SQLite takes at most 32,766
SMALL_WORDS = frozenset(
    ("a", "an", "and", "for", "from", "how", "i", "in", "into", "is", "it", "my", "of", "on", "or", "the", "to", "with")
)


def bounds_now(database: Database) -> Bounds:
    """Nothing that is committed later lies within: PostgreSQL hands out numbers in another order than it commits."""
    with database.write() as connection:
        if database.dialect == "postgresql":
            connection.execute(text("LOCK TABLE searches, events IN SHARE MODE"))
        return Bounds(highest(connection, searches.c.seq), highest(connection, events.c.seq))


def read_log(database: Database, bounds: Bounds, after: int = 0) -> pl.DataFrame:
    """Impressions (SCHEMA) down to rank DEEPEST, sorted by search and rank; only searches later than number `after`.

    `text` is what was asked; `query` is normalised: what is asked again in other case or spacing is the same query. A
    `cluster` holds its near-duplicates. Events of unknown queries, of documents that were not shown, and with other
    actions than CLICKS do not appear.
    """
    with database.read() as connection:
        return _log(connection, (searches.c.seq > after) & (searches.c.seq <= bounds.search), bounds.event)


def read_searches(database: Database, numbers: Sequence[int], event: int) -> pl.DataFrame:
    """The same of the searches of these numbers, in ascending order, with the events up to number `event`."""
    parts = [pl.DataFrame(schema=SCHEMA)]
    with database.read() as connection:
        for start in range(0, len(numbers), NUMBERS):
            parts.append(_log(connection, searches.c.seq.in_(numbers[start : start + NUMBERS]), event))
    return pl.concat(parts)


def clicked_later(database: Database, before: Bounds, event: int) -> list[int]:
    """Numbers of the searches within `before` that got events after it, up to number `event`."""
    clicks = (
        select(searches.c.seq)
        .join(events, events.c.query_id == searches.c.query_id)
        .where(events.c.seq > before.event, events.c.seq <= event, events.c.action.in_(CLICKS))
        .where(searches.c.seq <= before.search)
        .distinct()
    )
    with database.read() as connection:
        return list(connection.scalars(clicks))


def clicks_received(database: Database, before: Bounds, event: int) -> dict[str, int]:
    """How many events of CLICKS arrived after `before`, up to number `event`; and those of them that count nowhere: of
    searches that are not in the log, and of documents that their search did not show.
    """
    search = select(searches.c.seq).where(searches.c.query_id == events.c.query_id)
    result = search.join(shown, shown.c.search_seq == searches.c.seq).where(shown.c.document_id == events.c.document_id)
    known, seen = (
        func.coalesce(func.sum(case((there.correlate(events).exists(), 1), else_=0)), 0) for there in (search, result)
    )
    arrived = (events.c.seq > before.event) & (events.c.seq <= event) & events.c.action.in_(CLICKS)
    with database.read() as connection:
        row = connection.execute(select(func.count(), known, seen).select_from(events).where(arrived)).one()
    received, of_searches, of_results = map(int, row)
    return {
        "clicks_received": received,
        "clicks_of_unknown_searches": received - of_searches,
        "clicks_of_documents_not_shown": of_searches - of_results,
    }


def block_end(database: Database, results: int, after: int, until: int) -> int:
    """Number of the search with which so many results that are read have come since search `after`; `until` where they
    are fewer by then.
    """
    which = (shown.c.search_seq > after) & (shown.c.search_seq <= until) & (shown.c.rank <= DEEPEST)
    places = select(shown.c.search_seq).where(which).order_by(shown.c.search_seq, shown.c.rank)
    with database.read() as connection:
        return connection.scalar(places.offset(results - 1).limit(1)) or until


def last_search(database: Database, number: int) -> str | None:
    """The `query_id` of the newest search up to this number."""
    newest = select(searches.c.query_id).where(searches.c.seq <= number).order_by(searches.c.seq.desc()).limit(1)
    with database.read() as connection:
        return connection.scalar(newest)


def _log(connection: Connection, which: ColumnElement[bool], event: int) -> pl.DataFrame:
    c = searches.c
    asked = select(c.seq, c.query, PERSON, c.arrived_at, c.release_id, WITHIN).where(which)
    texts_of = {"search": pl.Int64, "text": pl.String, "person": pl.String}
    asked_of = {**texts_of, "day": pl.Float64, "release": pl.String, "within": pl.String}
    results = select(c.seq, shown.c.document_id, shown.c.rank, shown.c.ranker, shown.c.score)
    results = results.join(shown, shown.c.search_seq == c.seq).where(which, shown.c.rank <= DEEPEST)
    results = results.order_by(c.seq, shown.c.rank)
    place = {"search": pl.Int64, "document_id": pl.String}
    clicks = select(c.seq, events.c.document_id, LEVEL).join(events, events.c.query_id == c.query_id)
    clicks = clicks.where(which, events.c.seq <= event, events.c.action.in_(CLICKS))
    seen = _frame(connection, results, {**place, "rank": pl.Int64, "ranker": pl.String, "score": pl.Float64})
    people = _frame(connection, asked, asked_of)
    levels = _frame(connection, clicks, {**place, "level": pl.Int64}).group_by(*place).max()
    texts = people.select(pl.col("text").unique())
    filters = people["within"].unique()
    people = people.with_columns(
        pl.col("within").replace_strict(filters, pl.Series(map(canonical, filters), dtype=pl.String))
    )
    named = texts.with_columns(
        query=pl.Series([normalised(words) for words in texts["text"]], dtype=pl.String),
        cluster=pl.Series([cluster_of(words) for words in texts["text"]], dtype=pl.String),
    )
    return (
        seen.join(people.join(named, on="text"), on="search", maintain_order="left")
        .join(levels, on=list(place), how="left", maintain_order="left")
        .with_columns(
            day=(pl.col("day") / SECONDS_A_DAY).cast(pl.Int64),
            clicked=pl.col("level").is_not_null(),
            level=pl.col("level").fill_null(0),
        )
        .select(list(SCHEMA))
    )


def _frame(connection: Connection, statement: Select[Any], schema: Mapping[str, Any]) -> pl.DataFrame:
    """By columns: polars reads rows much more slowly."""
    parts, result = [pl.DataFrame(schema=schema)], connection.execute(statement)
    while rows := result.fetchmany(ROWS):
        columns = zip(schema.items(), zip(*rows, strict=True), strict=True)
        parts.append(pl.DataFrame([pl.Series(name, values, dtype=kind) for (name, kind), values in columns]))
    return pl.concat(parts)


def wordings_of(log: pl.DataFrame) -> pl.DataFrame:
    """In how many `searches` each `query` was asked with which `text`."""
    return log.group_by("query", "text").agg(searches=pl.col("search").n_unique())


def commonest(wordings: pl.DataFrame) -> dict[str, str]:
    """For each query the text in which it was asked most often: what the encoder reads."""
    ordered = wordings.sort("query", "searches", "text", descending=[False, True, False])
    return dict(ordered.group_by("query", maintain_order=True).first().select("query", "text").rows())


def normalised(query: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", query).casefold().split())


def cluster_of(query: str) -> str:
    """The same text for queries that differ only in case, punctuation, order, plural s or small words."""
    text = normalised(query)
    words = "".join(letter if _is_of_word(letter) else " " for letter in text).split()
    kept = [_stem(word) for word in words if word not in SMALL_WORDS]
    return " ".join(sorted(set(kept))) or " ".join(sorted(words)) or text


def canonical(within: str) -> str:
    """The same text for filters that differ only in the order of their parts."""
    try:
        found = orjson.loads(within) if within else None
        if parse_filter(found) in (None, Filter()):
            return EVERYTHING
    except (ValueError, InvalidInput):
        return within  # it was accepted once, and is not any more
    return orjson.dumps(_in_order(found), option=orjson.OPT_SORT_KEYS).decode()


def fingerprint(log: pl.DataFrame) -> str:
    """SHA-256 of the impressions and clicks, so that a report says which data a run saw."""
    rows = log.select("search", "rank", "document_id", "level").hash_rows(seed=0)
    return hashlib.sha256(rows.to_numpy().tobytes()).hexdigest()


def _in_order(value: Any) -> Any:
    """JSON whose lists are sets."""
    if isinstance(value, dict):
        return {name: _in_order(part) for name, part in value.items()}
    if isinstance(value, list):
        return sorted(map(_in_order, value), key=lambda part: orjson.dumps(part, option=orjson.OPT_SORT_KEYS))
    return value


def _is_of_word(letter: str) -> bool:
    """Also the vowel signs of Hindi or Thai, which stand for themselves beside their consonant."""
    return letter.isalnum() or unicodedata.category(letter).startswith("M")


def _stem(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word
