"""The one place where all processes meet: SQLite in the data folder, or PostgreSQL."""

import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import Connection, Engine, Table, create_engine, event, func, select, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as NoConnection

from .errors import DatabaseFault, DataFolderError
from .schema import counters

BUSY_SECONDS = 30  # how long a SQLite writer waits for another one
MIGRATIONS = Path(__file__).parent / "migrations"


class Database:
    """Short transactions: `read` sees one snapshot, `write` holds the write lock from its start.

    Both raise DatabaseFault, with nothing written, when the database is locked for too long, full or away.
    """

    def __init__(self, url: str, durability: str = "process") -> None:
        """`durability` is "process" (survives the death of any process) or "power" (a power cut too).

        Raises DataFolderError when the database was made by a newer version or cannot be opened.
        """
        self.engine = _engine(url, durability)
        self.dialect = self.engine.dialect.name
        self._reads = self.engine
        if self.dialect != "sqlite":  # where a reader sees one snapshot anyway; here each statement would see its own
            self._reads = self.engine.execution_options(isolation_level="REPEATABLE READ")
        self._own = threading.local()  # each thread's `driver`
        try:
            if not self._is_up_to_date():
                from .migrate import migrate  # a quarter of a second that most starts are spared

                migrate(self.engine, url)
        except BaseException:
            self.engine.dispose()
            raise

    @contextmanager
    def read(self) -> Iterator[Connection]:
        with _available(), self._reads.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        with _available(), self.engine.connect().execution_options(writes=True) as connection, connection.begin():
            yield connection

    def revision(self) -> int:
        """The newest revision of a document."""
        return int(self.row("SELECT value FROM counters WHERE name = 'revision'")[0])

    def row(self, statement: str) -> tuple[Any, ...]:
        """The one row that this SQL without values gives, with SQLite by `driver_rows`."""
        if self.dialect == "sqlite":
            return tuple(self.driver_rows(statement)[0])
        with self.read() as connection:
            return tuple(connection.exec_driver_sql(statement).one())

    def driver_rows(self, statement: str, values: Sequence[int | str] = ()) -> list[Any]:
        """What SQLite alone answers to one statement, which sees one snapshot, in a tenth of the time of `read`, by a
        connection of the thread's own. It is for what is asked beside every search: the encoder has just emptied the
        processor's caches, and then all that is between us and SQLite takes up to a millisecond.
        """
        with _available():
            own: _Driver | None = getattr(self._own, "driver", None)
            if own is None:
                own = self._own.driver = _Driver(self.engine)
            try:
                found: list[Any] = own.connection.execute(statement, values).fetchall()
                return found
            except sqlite3.OperationalError as error:
                raise DatabaseFault(error) from error

    def insert(self, table: Table) -> Any:
        """An INSERT that knows `on_conflict_…`, in the database's own dialect."""
        return sqlite.insert(table) if self.dialect == "sqlite" else postgresql.insert(table)

    def compiled(self, statement: Any) -> str:
        """An INSERT for `exec_driver_sql`, its values by name. Core compiles and converts anew for every row."""
        dialect = sqlite.dialect(paramstyle="named") if self.dialect == "sqlite" else self.engine.dialect
        return str(statement.inline().compile(dialect=dialect))

    def close(self) -> None:
        self._own = threading.local()  # which closes the connections of all threads
        self.engine.dispose()

    def _is_up_to_date(self) -> bool:
        """Whether all migrations were made. What cannot be opened is said to be behind: migrating tells why."""
        try:
            with self.engine.connect() as connection:
                made: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
                return made == newest_migration()
        except SQLAlchemyError:
            return False


def newest_migration() -> str:
    return max(path.stem.partition("_")[0] for path in (MIGRATIONS / "versions").glob("*.py"))


class _Driver:
    """A connection of SQLite's driver, set up as all are, that is closed with the thread that keeps it."""

    def __init__(self, engine: Engine) -> None:
        pooled = engine.raw_connection()
        self.connection: Any = pooled.driver_connection
        pooled.detach()

    def __del__(self) -> None:
        if hasattr(self, "connection"):
            self.connection.close()


@contextmanager
def _available() -> Iterator[None]:
    try:
        yield
    except OperationalError as error:
        raise DatabaseFault(error.orig) from error
    except NoConnection as error:
        raise DatabaseFault("all connections are waiting") from error


def next_revisions(connection: Connection, count: int) -> int:
    """Takes `count` revisions and returns the last; other writers wait until the transaction ends."""
    statement = (
        counters.update()
        .where(counters.c.name == "revision")
        .values(value=counters.c.value + count)
        .returning(counters.c.value)
    )
    return int(connection.execute(statement).scalar_one())


def newest_revision(connection: Connection) -> int:
    return int(connection.execute(select(counters.c.value).where(counters.c.name == "revision")).scalar_one())


def hold_documents(connection: Connection) -> int:
    """Keeps every writer of documents waiting until the transaction ends; returns the newest revision."""
    return next_revisions(connection, 0)


def highest(connection: Connection, column: Any) -> int:
    return int(connection.execute(select(func.coalesce(func.max(column), 0))).scalar_one())


def _engine(url: str, durability: str) -> Engine:
    options: dict[str, Any] = {
        "json_serializer": lambda value: orjson.dumps(value).decode(),
        "json_deserializer": orjson.loads,
        "hide_parameters": True,  # errors are logged, and parameters are queries and texts
    }
    if not url.startswith("sqlite"):
        try:
            return create_engine(url, pool_size=8, max_overflow=16, pool_pre_ping=True, **options)
        except ModuleNotFoundError as error:
            raise DataFolderError(f"database_url: {error.name} is not installed; install clickloop[postgres]") from None
    engine = create_engine(
        url,
        connect_args={"timeout": BUSY_SECONDS, "isolation_level": None, "check_same_thread": False},
        pool_size=24,
        max_overflow=24,
        **options,
    )
    synchronous = {"process": "NORMAL", "power": "FULL"}[durability]

    @event.listens_for(engine, "connect")
    def _pragmas(connection: Any, _record: object) -> None:
        connection.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}")
        _write_ahead(connection)
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        connection.execute("PRAGMA foreign_keys = ON")

    # A transaction that begins as a reader and then writes fails at once when another writer came between.
    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _write_ahead(connection: Any) -> None:
    """Changing the journal mode does not wait for other processes that open a new database at the same moment."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
