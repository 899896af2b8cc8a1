import os
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

from clickloop.retriever.database import MIGRATIONS, Database, newest_migration, newest_revision
from clickloop.retriever.errors import DataFolderError
from clickloop.retriever.schema import metadata

OPEN = """
import sys
from clickloop.retriever.database import Database
print("ready", flush=True)
sys.stdin.readline()
Database(sys.argv[1]).close()
"""


def dump(path: Path) -> list[str]:
    connection = sqlite3.connect(path)
    try:
        return list(connection.iterdump())
    finally:
        connection.close()


def facts(path: Path) -> dict[str, Any]:
    """What SQLite itself knows about every table, in no particular order of constraints."""
    connection = sqlite3.connect(path)
    try:
        tables = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'").fetchall()
        return {
            name: {
                "columns": {row[1:] for row in connection.execute(f"PRAGMA table_info({name})")},
                "foreign keys": {row[2:] for row in connection.execute(f"PRAGMA foreign_key_list({name})")},
                "indexes": {
                    (unique, tuple(connection.execute(f"PRAGMA index_info({index})").fetchall()))
                    for _, index, unique, *_ in connection.execute(f"PRAGMA index_list({name})")
                },
                "autoincrement": "AUTOINCREMENT" in sql,
                "check": "CHECK" in sql,
            }
            for name, sql in tables
            if name not in ("alembic_version", "sqlite_sequence")
        }
    finally:
        connection.close()


def test_the_migrations_lead_to_the_tables_of_the_schema(database: Database) -> None:
    with database.read() as connection:
        options = {"compare_type": True, "compare_server_default": True}
        assert compare_metadata(MigrationContext.configure(connection, opts=options), metadata) == []


@pytest.mark.usefixtures("database")
def test_the_migrations_lead_to_the_same_constraints(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'made.db'}")
    metadata.create_all(engine)
    engine.dispose()
    assert facts(tmp_path / "clickloop.db") == facts(tmp_path / "made.db")


def test_a_new_database_is_at_revision_0(database: Database) -> None:
    with database.read() as connection:
        assert newest_revision(connection) == 0


@pytest.mark.usefixtures("database")
def test_opening_twice_changes_nothing(tmp_path: Path) -> None:
    before = dump(tmp_path / "clickloop.db")
    Database(f"sqlite:///{tmp_path / 'clickloop.db'}").close()
    assert dump(tmp_path / "clickloop.db") == before


def test_what_is_said_to_be_the_newest_migration_is_the_head() -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_heads() == [newest_migration()]


def test_a_database_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "clickloop.db"
    Database(f"sqlite:///{path}").close()
    connection = sqlite3.connect(path)
    connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.commit()
    connection.close()
    before = dump(path)
    with pytest.raises(DataFolderError, match="newer version") as caught:
        Database(f"sqlite:///{path}")
    assert str(path) in str(caught.value)
    assert dump(path) == before


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "clickloop.db"
    path.write_text("these are the notes of somebody else\n" * 100)
    before = path.read_bytes()
    with pytest.raises(DataFolderError, match="cannot be opened"):
        Database(f"sqlite:///{path}")
    assert path.read_bytes() == before


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataFolderError, match="no-such-folder"):
        Database(f"sqlite:///{tmp_path}/no-such-folder/clickloop.db")


def test_a_password_is_not_shown() -> None:
    pytest.importorskip("psycopg", reason="PostgreSQL: not tested, install clickloop[postgres]")
    with pytest.raises(DataFolderError) as caught:
        Database("postgresql+psycopg://somebody:secret@127.0.0.1:1/nothing")
    assert "secret" not in str(caught.value)


def open_together(paths: list[Path]) -> None:
    together = Barrier(len(paths))

    def open_it(path: Path) -> None:
        together.wait(60)
        Database(f"sqlite:///{path}").close()

    with ThreadPoolExecutor(len(paths)) as pool:
        list(pool.map(open_it, paths))


def test_closing_also_closes_what_other_threads_had_open(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'clickloop.db'}")
    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(lambda _: database.revision(), range(4))) == [0] * 4
        assert database.revision() == 0
        database.close()
        assert [path.name for path in tmp_path.iterdir()] == ["clickloop.db"], "the last one to close removes the log"


def test_threads_can_open_a_new_database_at_once(tmp_path: Path) -> None:
    whole = tmp_path / "alone.db"
    Database(f"sqlite:///{whole}").close()
    for attempt in range(20):  # a race that is lost only now and then
        path = tmp_path / f"{attempt}.db"
        open_together([path] * 4)
        assert facts(path) == facts(whole)


def test_threads_can_open_databases_of_their_own_at_once(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.db" for i in range(4)]
    open_together(paths)
    assert [facts(path) for path in paths] == [facts(paths[0])] * 4


def test_processes_can_open_a_new_database_at_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", OPEN, f"sqlite:///{tmp_path / 'clickloop.db'}"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    children = [
        subprocess.Popen(
            command,
            env=environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(3)
    ]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
    answers = [child.communicate(timeout=120) for child in children]
    assert [child.returncode for child in children] == [0, 0, 0], answers
