import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clickloop.retriever.edge import RESERVE
from clickloop.retriever.errors import NoRoom
from clickloop.retriever.vectors import VectorLog, scratch

DIMENSION = 3
RECORD = 8 + 8 + 4 * DIMENSION  # bytes
Content = dict[int, tuple[int, list[float]]]  # key → revision, vector


def append(log: VectorLog, records: list[tuple[int, int, list[float]]]) -> None:
    log.append(
        np.array([key for key, _, _ in records], dtype=np.int64),
        np.array([revision for _, revision, _ in records], dtype=np.int64),
        np.array([vector for _, _, vector in records], dtype=np.float32).reshape(-1, DIMENSION),
    )


def content(log: VectorLog) -> Content:
    newest = log.newest()
    keys, vectors = newest.keys, newest.vectors(slice(None))
    assert list(keys) == sorted(keys)
    return {int(key): (int(newest.revisions[i]), vectors[i].tolist()) for i, key in enumerate(keys)}


def tear(path: Path, bytes_left: int) -> None:
    """What a crash leaves: the first bytes of a record after the whole ones."""
    whole = path.read_bytes() if path.exists() else b""
    path.write_bytes(whole[: len(whole) // RECORD * RECORD] + b"\x07" * bytes_left)


def test_a_log_that_was_never_written_is_empty(tmp_path: Path) -> None:
    log = VectorLog(tmp_path / "log", DIMENSION)
    assert content(log) == {}
    assert log.newest().vectors(slice(None)).shape == (0, DIMENSION)
    known = log.newest().find(np.array([1]), np.array([1]))[1]
    assert not known.any()
    assert not log.worn(0)


def test_the_newest_record_of_a_key_wins(tmp_path: Path) -> None:
    log = VectorLog(tmp_path / "log", DIMENSION)
    append(log, [(7, 1, [1, 0, 0]), (3, 2, [0, 1, 0])])
    append(log, [(7, 3, [0, 0, 1])])
    assert content(log) == {3: (2, [0, 1, 0]), 7: (3, [0, 0, 1])}


def test_the_newest_record_wins_within_one_batch_too(tmp_path: Path) -> None:
    log = VectorLog(tmp_path / "log", DIMENSION)
    append(log, [(7, 1, [1, 0, 0]), (7, 2, [0, 1, 0])])
    assert content(log) == {7: (2, [0, 1, 0])}


def test_a_half_record_is_ignored_by_readers_and_dropped_by_the_next_writer(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = VectorLog(path, DIMENSION)
    append(log, [(1, 1, [1, 0, 0])])
    tear(path, RECORD - 1)
    assert content(log) == {1: (1, [1, 0, 0])}
    append(log, [(2, 2, [0, 1, 0])])
    assert content(log) == {1: (1, [1, 0, 0]), 2: (2, [0, 1, 0])}
    assert path.stat().st_size == 2 * RECORD


def test_compacting_keeps_the_content_and_drops_what_was_replaced(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = VectorLog(path, DIMENSION)
    for revision in range(1, 5):
        append(log, [(1, revision, [revision, 0, 0]), (2, revision, [0, revision, 0])])
    before = content(log)
    log.compact(np.array([1, 2]))
    assert content(log) == before
    assert path.stat().st_size == 2 * RECORD


def test_compacting_drops_what_is_no_longer_alive(tmp_path: Path) -> None:
    log = VectorLog(tmp_path / "log.vectors", DIMENSION)
    append(log, [(1, 1, [1, 0, 0]), (2, 2, [0, 1, 0]), (3, 3, [0, 0, 1])])
    log.compact(np.array([2, 9]))
    assert content(log) == {2: (2, [0, 1, 0])}
    log.compact(np.array([], dtype=np.int64))
    assert content(log) == {}


def test_a_log_wears_with_what_is_replaced(tmp_path: Path) -> None:
    log = VectorLog(tmp_path / "log", DIMENSION)
    for revision in range(1, 4):
        append(log, [(key, revision, [1, 0, 0]) for key in range(5000)])
    assert not log.worn(10_000)
    assert log.worn(5_000)


def test_a_vector_is_found_by_key_and_revision(tmp_path: Path) -> None:
    log = VectorLog(tmp_path / "log", DIMENSION)
    append(log, [(7, 2, [1, 0, 0]), (3, 1, [0, 1, 0])])
    newest = log.newest()
    rows, known = newest.find(np.array([2, 3, 7, 8]), np.array([1, 1, 1, 1]))
    assert known.tolist() == [False, True, False, False]
    assert newest.vectors(rows[known]).tolist() == [[0, 1, 0]]


def test_compacting_replaces_what_an_interrupted_compaction_left(tmp_path: Path) -> None:
    log = VectorLog(tmp_path / "log.vectors", DIMENSION)
    append(log, [(1, 1, [1, 0, 0])])
    (tmp_path / "log.compact").write_bytes(b"\x07" * 3 * RECORD)
    log.compact(np.array([1]))
    assert content(log) == {1: (1, [1, 0, 0])}


def test_compacting_leaves_the_reserve_of_the_disk_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = VectorLog(tmp_path / "log.vectors", DIMENSION)
    append(log, [(1, 1, [1, 0, 0]), (1, 2, [0, 1, 0]), (2, 3, [0, 0, 1])])
    before = content(log)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=RESERVE + 2 * RECORD - 1))
    with pytest.raises(NoRoom, match=r"log\.vectors"):
        log.compact(np.array([1, 2]))
    assert content(log) == before
    log.compact(np.array([1]))
    assert content(log) == {1: before[1]}


def test_a_compaction_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = VectorLog(tmp_path / "log.vectors", DIMENSION)
    append(log, [(1, 1, [1, 0, 0]), (2, 2, [0, 1, 0])])
    before = content(log)

    def full(smaller: VectorLog, *_records: object) -> None:
        smaller._path.write_bytes(b"a part of a record")
        raise OSError("no room")

    monkeypatch.setattr(VectorLog, "append", full)
    with pytest.raises(OSError, match="no room"):
        log.compact(np.array([1, 2]))
    assert content(log) == before
    assert [path.name for path in tmp_path.iterdir()] == ["log.vectors"]


vectors = st.lists(st.floats(-4, 4, width=32), min_size=DIMENSION, max_size=DIMENSION)
records = st.tuples(st.integers(1, 5), st.integers(1, 2**60), vectors)
steps = st.one_of(st.lists(records, max_size=6), st.integers(1, RECORD - 1), st.just("compact"))


@given(st.lists(steps, max_size=12))
def test_whatever_happens_the_log_holds_the_newest_of_every_key(
    sequence: list[list[tuple[int, int, list[float]]] | int | str],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.vectors"
        log = VectorLog(path, DIMENSION)
        expected: Content = {}
        for step in sequence:
            if isinstance(step, list):
                append(log, step)
                expected |= {key: (revision, vector) for key, revision, vector in step}
            elif isinstance(step, int):
                tear(path, step)
            else:
                log.compact(np.array(sorted(expected), dtype=np.int64))
            assert content(log) == expected


def test_room_for_vectors_leaves_no_file_and_is_refused_where_there_is_none(tmp_path: Path) -> None:
    vectors_ = scratch(tmp_path, 3, DIMENSION)
    vectors_[1] = 1
    assert vectors_.sum() == DIMENSION
    assert scratch(tmp_path, 0, DIMENSION).shape == (0, DIMENSION)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(NoRoom, match=r"1,000,000,000,000 vectors needs .* MiB of disk"):
        scratch(tmp_path, 10**12, DIMENSION)
