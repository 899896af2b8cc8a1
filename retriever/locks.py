"""Locks between processes that the death of their holder releases."""

import hashlib
import os
import time
from pathlib import Path
from typing import Protocol

from filelock import FileLock, Timeout
from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from .database import Database

WAIT_SECONDS = 0.2
TRIES = 5  # who clears away what is half made has the lock for a moment


class Lock(Protocol):
    def acquire(self) -> bool:
        """Takes the lock without waiting; False when another process, or another object of this one, holds it."""
        ...

    def held(self) -> bool:
        """Whether this object still has it: in PostgreSQL a lock goes with its session, whatever ends that."""
        ...

    def release(self) -> None:
        """Idempotent."""
        ...

    def holder(self) -> str:
        """Who holds it, as far as that is known."""
        ...


def open_lock(database: Database, folder: Path, name: str) -> Lock:
    """A file lock beside an SQLite database, an advisory lock in PostgreSQL, where processes share no folder."""
    if database.dialect == "sqlite":
        return _FileLock(folder / f"{name}.lock")
    return _AdvisoryLock(database, name)


class After:
    """`then`, taken as soon as nobody holds `first`: waits for `first`, and for `then` only a second."""

    def __init__(self, first: Lock, then: Lock) -> None:
        self._first, self._then = first, then

    def acquire(self) -> bool:
        while not self._first.acquire():
            time.sleep(WAIT_SECONDS)
        try:
            for _ in range(TRIES):
                if self._then.acquire():
                    return True
                time.sleep(WAIT_SECONDS)
            return False
        finally:
            self._first.release()

    def held(self) -> bool:
        return self._then.held()

    def release(self) -> None:
        self._then.release()

    def holder(self) -> str:
        return self._then.holder()


class Both:
    """Two locks as one: it is held when both are."""

    def __init__(self, first: Lock, second: Lock) -> None:
        self._first, self._second = first, second

    def acquire(self) -> bool:
        if not self._first.acquire():
            return False
        if not self._second.acquire():
            self._first.release()
            return False
        return True

    def held(self) -> bool:
        return self._first.held() and self._second.held()

    def release(self) -> None:
        self._second.release()
        self._first.release()

    def holder(self) -> str:
        return self._second.holder()


class _FileLock:
    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(path, is_singleton=False, thread_local=False)
        self._note = path.with_suffix(".pid")

    def acquire(self) -> bool:
        try:
            self._lock.acquire(blocking=False)
        except Timeout:
            return False
        self._note.write_text(str(os.getpid()))
        return True

    def held(self) -> bool:
        return self._lock.is_locked

    def release(self) -> None:
        self._lock.release(force=True)

    def holder(self) -> str:
        try:
            return f"process {self._note.read_text()}"
        except OSError:
            return "another process"


class _AdvisoryLock:
    """Lives as long as its connection does."""

    def __init__(self, database: Database, name: str) -> None:
        self._engine = database.engine
        self._number = int.from_bytes(hashlib.sha256(f"clickloop {name}".encode()).digest()[:8], signed=True)
        self._connection: Connection | None = None

    def acquire(self) -> bool:
        if self._connection is not None:
            return False
        connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        if connection.scalar(text("SELECT pg_try_advisory_lock(:number)"), {"number": self._number}):
            self._connection = connection
            return True
        connection.close()
        return False

    def held(self) -> bool:
        """Asks by its own connection, which also keeps that from being cut off for silence."""
        if self._connection is None:
            return False
        try:
            self._connection.execute(text("SELECT 1"))
        except SQLAlchemyError:
            self.release()  # asked again, it would connect anew and answer
            return False
        return True

    def release(self) -> None:
        if self._connection is not None:
            # Back in the pool the connection would keep the lock.
            self._connection.invalidate()
            self._connection.close()
            self._connection = None

    def holder(self) -> str:
        return "another process"
