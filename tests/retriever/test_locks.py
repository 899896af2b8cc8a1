import threading
from pathlib import Path

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


def test_what_it_waits_for_is_only_the_first(database: Database, tmp_path: Path) -> None:
    after, (_, second) = After(*locks(database, tmp_path)), locks(database, tmp_path)
    assert second.acquire()
    assert not after.acquire()
