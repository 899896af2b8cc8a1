"""Document vectors of one release on disk, kept beside the index so that a night can judge what is served."""

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .types import Keys, Vectors


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

    def load(self) -> tuple[Keys, Keys, Vectors]:
        """Keys in ascending order, their revisions and vectors (n × dimension, float32)."""
        records = self._read()
        # The first occurrence in the reversed log is the newest record of a key.
        keys, newest = np.unique(records["key"][::-1], return_index=True)
        chosen = len(records) - 1 - newest
        return keys, records["revision"][chosen], np.ascontiguousarray(records["vector"][chosen])

    def compact(self) -> None:
        """Rewrites the file with only the newest record of each key; for the writer alone."""
        records = self._read()
        if len(records) == 0:
            return
        keys, revisions, vectors = self.load()
        smaller = VectorLog(self._path.with_suffix(".compact"), vectors.shape[1])
        smaller._path.unlink(missing_ok=True)
        smaller.append(keys, revisions, vectors)
        smaller._path.replace(self._path)

    def drop(self) -> None:
        """For the writer alone."""
        self._path.unlink(missing_ok=True)

    def _read(self) -> npt.NDArray[np.void]:
        if not self._path.exists():
            return np.empty(0, dtype=self._record)
        whole = self._path.stat().st_size // self._record.itemsize
        if whole == 0:
            return np.empty(0, dtype=self._record)
        return np.memmap(self._path, dtype=self._record, mode="r", shape=(whole,))
