import threading
from pathlib import Path

import pytest
from sqlalchemy import text

from clickloop.retriever import locks as module
from clickloop.retriever.database import Database
from clickloop.retriever.locks import After, Both, Lock, open_lock


def locks(database: Database, folder: Path) -> tuple[Lock, Lock]:
    return open_lock(database, folder, "first"), open_lock(database, folder, "second")


def test_both_are_held_or_none_is(database: Database, tmp_path: Path) -> None:
    both, (first, second) = Both(*locks(database, tmp_path)), locks(database, tmp_path)
    assert second.acquire()
    assert not both.acquire()
    assert first.acquire()
    first.release()
    second.release()
    assert both.acquire()
    assert not first.acquire()
    assert not second.acquire()
    both.release()
    assert first.acquire()


def test_one_lock_waits_for_the_end_of_another(database: Database, tmp_path: Path) -> None:
    after, (first, second) = After(*locks(database, tmp_path)), locks(database, tmp_path)
    assert first.acquire()
    taken: list[bool] = []
    waiting = threading.Thread(target=lambda: taken.append(after.acquire()))
    waiting.start()
    assert second.acquire()
    second.release()
    first.release()
    waiting.join()
    assert taken == [True]
    assert not second.acquire()
    assert first.acquire(), "only the second one is kept"


def test_what_it_waits_for_is_only_the_first(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WAIT_SECONDS", 0)
    after, (_, second) = After(*locks(database, tmp_path)), locks(database, tmp_path)
    assert second.acquire()
    assert not after.acquire()


def test_who_has_the_second_lock_for_a_moment_keeps_nobody_away(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    after, (_, second) = After(*locks(database, tmp_path)), locks(database, tmp_path)
    assert second.acquire()
    monkeypatch.setattr(module.time, "sleep", lambda _seconds: second.release())
    assert after.acquire()


def test_a_lock_is_held_from_the_moment_it_is_taken_until_it_is_released(database: Database, tmp_path: Path) -> None:
    for lock in (*locks(database, tmp_path), Both(*locks(database, tmp_path)), After(*locks(database, tmp_path))):
        assert not lock.held()
        assert lock.acquire()
        assert lock.held()
        lock.release()
        assert not lock.held()


def test_a_lock_in_postgresql_is_lost_with_its_session(postgres: Database, tmp_path: Path) -> None:
    lock, other = (open_lock(postgres, tmp_path, "owner") for _ in range(2))
    assert lock.acquire()
    assert lock.held()
    with postgres.write() as connection:
        connection.execute(text("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'"))
    assert not lock.held()
    assert other.acquire()
    assert not lock.held(), "a new session has no lock"
    assert not lock.acquire()
    lock.release()
    assert other.held()
    other.release()
    assert lock.acquire()
    lock.release()
