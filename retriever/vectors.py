"""Document vectors of one release on disk, kept beside the index so that a night can judge what is served."""

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .edge import RESERVE
from .errors import NoRoom
from .types import Keys, Vectors

WORN = 1.5  # records a living document from which rewriting the file pays
COPIED = 4096  # records at a time


@dataclass(frozen=True, slots=True)
class Newest:
    """The newest record of every key, keys ascending. The vectors stay in the file until they are asked for."""

    keys: Keys
    revisions: Keys
    _records: npt.NDArray[np.void]
    _places: npt.NDArray[np.intp]

    def vectors(self, rows: Keys | slice) -> Vectors:
        """Those of some of the keys (n × dimension, float32)."""
        found: Vectors = np.ascontiguousarray(self._records["vector"][self._places[rows]])
        return found

    def find(self, keys: Keys, revisions: Keys) -> tuple[Keys, npt.NDArray[np.bool_]]:
        """Where these keys are among ours, and for which of them the record is of this very revision."""
        if not len(self.keys):
            return np.zeros(len(keys), dtype=np.int64), np.zeros(len(keys), dtype=bool)
        rows = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return rows, (self.keys[rows] == keys) & (self.revisions[rows] == revisions)


class VectorLog:
    """An append-only file of records (document key, its revision, float32 vector); the last record of a key counts.

    A record cut short by a crash is dropped by the next writer. The file is a cache: what is missing is encoded again.
    """

    def __init__(self, path: Path, dimension: int) -> None:
        self._path = path
        self._record = np.dtype([("key", "<i8"), ("revision", "<i8"), ("vector", "<f4", (dimension,))])

    def append(self, keys: Keys, revisions: Keys, vectors: Vectors) -> None:
        """One writer at a time: the owner of a live release, or the night that makes a new one."""
        records = np.empty(len(keys), dtype=self._record)
        records["key"], records["revision"], records["vector"] = keys, revisions, vectors
        with self._path.open("ab") as file:
            whole = file.tell() // self._record.itemsize * self._record.itemsize
            os.truncate(self._path, whole)
            file.write(records.tobytes())

    def copy_to(self, other: "VectorLog") -> None:
        """What is written now; a last record that is only begun is left out by readers."""
        if self._path.exists():
            shutil.copyfile(self._path, other._path)

    def newest(self) -> Newest:
        """As it is now; what is appended later is not in it."""
        records = self._read()
        # The first occurrence in the reversed log is the newest record of a key.
        keys, last = np.unique(records["key"][::-1], return_index=True)
        places = len(records) - 1 - last
        return Newest(keys, records["revision"][places], records, places)

    def worn(self, documents: int) -> bool:
        """Whether rewriting pays where so many documents are alive. Reads nothing of the file."""
        return self._count() > WORN * documents + COPIED

    def compact(self, alive: Keys) -> None:
        """Rewrites the file with only the newest record of each of these keys, ascending; for the writer alone.

        Raises NoRoom.
        """
        newest = self.newest()
        kept = np.flatnonzero(np.isin(newest.keys, alive, assume_unique=True))
        if not len(kept):
            self.drop()
            return
        needed, free = len(kept) * self._record.itemsize + RESERVE, shutil.disk_usage(self._path.parent).free
        if free < needed:
            raise NoRoom(f"compacting {self._path.name}", needed, free, self._path.parent)
        smaller = VectorLog(self._path.with_suffix(".compact"), self._record["vector"].shape[0])
        smaller._path.unlink(missing_ok=True)
        try:
            for start in range(0, len(kept), COPIED):
                rows = kept[start : start + COPIED]
                smaller.append(newest.keys[rows], newest.revisions[rows], newest.vectors(rows))
            smaller._path.replace(self._path)
        finally:
            smaller._path.unlink(missing_ok=True)

    def drop(self) -> None:
        """For the writer alone."""
        self._path.unlink(missing_ok=True)

    def _count(self) -> int:
        return self._path.stat().st_size // self._record.itemsize if self._path.exists() else 0

    def _read(self) -> npt.NDArray[np.void]:
        whole = self._count()
        if whole == 0:
            return np.empty(0, dtype=self._record)
        return np.memmap(self._path, dtype=self._record, mode="r", shape=(whole,))


def scratch(folder: Path, rows: int, dimension: int) -> Vectors:
    """Room for vectors in a file without a name: the system may put them out of memory, and nothing of it stays.

    Raises NoRoom; if the room were not taken now, writing on a full disk would kill the process.
    """
    size = max(rows, 1) * dimension * 4
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError:
            raise NoRoom(f"{rows:,} vectors", size, shutil.disk_usage(folder).free, folder) from None
        mapped: Vectors = np.memmap(file, dtype=np.float32, mode="r+", shape=(max(rows, 1), dimension))
    return mapped[:rows]
