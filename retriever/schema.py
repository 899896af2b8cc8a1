"""The tables. `migrations/` holds how a database gets there; a test compares the two."""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    text,
    true,
)

metadata = MetaData()
# SQLite numbers only an INTEGER primary key by itself.
Serial = BigInteger().with_variant(Integer(), "sqlite")


def _who() -> list[Column[str]]:
    """The columns UBI knows about a person."""
    names = ("application", "client_id", "session_id", "user_id")
    return [*(Column(name, String) for name in names), Column("attributes", JSON(none_as_null=True))]


# One row, "revision": every write of a document takes the next number while holding this row's lock, so revisions
# become visible in their order and a reader that tails them cannot step over one.
counters = Table("counters", metadata, Column("name", String, primary_key=True), Column("value", BigInteger))

documents = Table(
    "documents",
    metadata,
    Column("key", Serial, primary_key=True, autoincrement=True),
    Column("id", Text, nullable=False, unique=True),
    Column("title", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("payload", JSON, nullable=False),
    Column("revision", BigInteger, nullable=False, index=True),
    Column("deleted", Boolean, nullable=False),
    sqlite_autoincrement=True,  # a key is never used twice, or an old build could show a new document under it
)
# Tombstones are counted and forgotten without reading the texts of all documents.
Index(
    "documents_tombstones",
    documents.c.revision,
    sqlite_where=text("deleted = 1"),  # as the dialect asks for it, or the index is not used
    postgresql_where=text("deleted"),
)

searches = Table(
    "searches",
    metadata,
    Column("seq", Serial, primary_key=True, autoincrement=True),  # order of arrival
    Column("query_id", String, nullable=False, unique=True),
    Column("query", Text, nullable=False),
    Column("k", Integer, nullable=False),
    Column("filter", JSON(none_as_null=True)),
    Column("build_id", String, nullable=False),
    Column("release_id", String, nullable=False),
    Column("took_ms", Float, nullable=False),
    Column("arrived_at", Float, nullable=False),
    *_who(),
    sqlite_autoincrement=True,
)

shown = Table(
    "shown",
    metadata,
    Column("search_seq", Serial, ForeignKey("searches.seq", ondelete="CASCADE"), primary_key=True),
    Column("rank", Integer, primary_key=True),
    Column("document_id", Text, nullable=False),
    Column("ranker", String, nullable=False),
    Column("propensity", Float, nullable=False),
    Column("score", Float),
)

events = Table(
    "events",
    metadata,
    Column("seq", Serial, primary_key=True, autoincrement=True),
    Column("event_id", String, nullable=False, unique=True),
    Column("query_id", String, nullable=False, index=True),
    Column("query_known", Boolean, nullable=False),
    Column("action", String, nullable=False),
    Column("document_id", Text, nullable=False),
    Column("rank", Integer),
    Column("client_time", Float),
    Column("arrived_at", Float, nullable=False),
    *_who(),
    sqlite_autoincrement=True,
)

releases = Table(
    "releases",
    metadata,
    Column("id", String, primary_key=True),
    Column("created_at", Float, nullable=False),
)

builds = Table(
    "builds",
    metadata,
    Column("id", String, primary_key=True),
    Column("release_id", String, ForeignKey("releases.id"), nullable=False),
    Column("state", String, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("optimized", BigInteger),  # the revision it held when its index was last optimised; none: never
)

# The pointer: one row that says what answers queries.
live = Table(
    "live",
    metadata,
    Column("id", Integer, CheckConstraint("id = 1"), primary_key=True),
    Column("build_id", String, ForeignKey("builds.id"), nullable=False),
)

# Wishes to move the pointer and what became of them: the only way for other processes to ask the owner for it, and the
# record of which build was live when.
switches = Table(
    "switches",
    metadata,
    Column("id", Serial, primary_key=True, autoincrement=True),
    Column("build_id", String, nullable=False),
    Column("reason", String, nullable=False),  # bootstrap, promotion, rollback, compaction, quantisation
    Column("run_id", String),
    Column("requested_by", String, nullable=False),
    Column("requested_at", Float, nullable=False),
    Column("state", String, nullable=False),  # requested → done or refused
    Column("error", Text),
    Column("former_build_id", String),
    Column("finished_at", Float),
    sqlite_autoincrement=True,
)

runs = Table(
    "runs",
    metadata,
    Column("id", String, primary_key=True),
    Column("state", String, nullable=False),  # queued → running → waiting or finished
    Column("step", String, nullable=False),
    Column("progress", Float, nullable=False),
    Column("outcome", String),
    Column("reasons", JSON, nullable=False),
    Column("requested_by", String, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("started_at", Float),
    Column("finished_at", Float),
    Column("attempts", Integer, nullable=False),
    Column("log_seq", BigInteger),  # searches and events that arrived up to here belong to the run
    Column("event_seq", BigInteger),
    Column("build_id", String),
    Column("details", JSON, nullable=False),  # metrics, mining, timings, lineage
    Index("runs_by_age", "created_at", "id"),
)

# Every look of the gate at its evidence, numbered: the error budget of all nights is spent along `k`.
looks = Table(
    "looks",
    metadata,
    Column("k", Integer, primary_key=True, autoincrement=False),
    Column("run_id", String, nullable=False, unique=True),
    Column("level", Float, nullable=False),
    Column("p_value", Float, nullable=False),
    Column("promoted", Boolean, nullable=False),
    Column("at", Float, nullable=False),
)

# One row while a candidate short of evidence is followed: the challenger of the release `champion_id`.
challenger = Table(
    "challenger",
    metadata,
    Column("id", Integer, CheckConstraint("id = 1"), primary_key=True),
    Column("run_id", String, nullable=False),  # that trained it
    Column("champion_id", String, nullable=False),
    Column("release_id", String, ForeignKey("releases.id"), nullable=False),
    Column("build_id", String),  # none where nobody is shown its results
    Column("k", Integer, nullable=False),
    Column("looked", Boolean, nullable=False, server_default=true()),  # had a first look
    Column("nights", Integer, nullable=False),
    Column("judged_by", String, nullable=False),  # the newest run that added to its evidence
    Column("log_seq", BigInteger, nullable=False),  # searches up to here have been heard
    Column("queries", JSON, nullable=False),
    Column("people", JSON, nullable=False),
)

# Queries and people that already counted as evidence about the challenger, as hashes: none of them counts twice. People
# have a vote.
counted = Table(
    "counted",
    metadata,
    Column("run_id", String, primary_key=True),
    Column("unit", String, primary_key=True),
    Column("cluster", String),  # what the vote is about
    Column("vote", Integer, nullable=False, server_default="0"),
)

# What the clicks on drafted lists said of the challenger, by query cluster (a hash), in sums over `times` nights.
lists = Table(
    "lists",
    metadata,
    Column("run_id", String, primary_key=True),
    Column("cluster", String, primary_key=True),
    Column("times", Integer, nullable=False),
    Column("delta", Float, nullable=False),
    Column("variance", Float, nullable=False),
    Column("third", Float, nullable=False),
    Column("loss", Float, nullable=False),
)

# Everything that was decided, approved and switched: see ledger.py.
ledger = Table(
    "ledger",
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("at", Float, nullable=False),
    Column("kind", String, nullable=False),
    Column("content", Text, nullable=False),
    Column("hash", String, nullable=False),
)

keys = Table(
    "keys",
    metadata,
    Column("id", String, primary_key=True),
    Column("role", String, nullable=False),
    Column("hash", String, nullable=False, unique=True),
    Column("created_at", Float, nullable=False),
    Column("revoked_at", Float),
)
