"""Brings a database to the present tables."""

import threading

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DatabaseError

from .database import MIGRATIONS
from .errors import DataFolderError

LOCK = 0x636C6F6F70  # PostgreSQL's advisory lock for one migration at a time
_MIGRATING = threading.Lock()


def migrate(engine: Engine, url: str) -> None:
    """All migrations that are missing, or none. Raises DataFolderError when a newer version made the database, or it
    cannot be opened.
    """
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    where = make_url(url).render_as_string(hide_password=True)
    try:
        # Alembic keeps its context in module globals.
        with _MIGRATING, engine.connect().execution_options(writes=True) as connection, connection.begin():
            if engine.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": LOCK})
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except CommandError as error:
        raise DataFolderError(
            f"the database {where} was written by a newer version of clickloop ({error}): "
            "upgrade clickloop, or name another data folder; nothing was changed"
        ) from error
    except DatabaseError as error:
        raise DataFolderError(f"the database {where} cannot be opened: {error.orig}") from error
