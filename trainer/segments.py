"""Tables on disk that only grow: what a night adds is written, and what is old is hardly ever written again.

A segment is a folder with one Parquet file a table. The metadata is written last and names the segments that count;
whatever else is there is left of a night that was killed.
"""

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import orjson
import polars as pl

from ..retriever.releases import write_whole

METADATA = "history.json"
Tables = Mapping[str, pl.DataFrame]
Merge = Callable[[pl.DataFrame], pl.DataFrame]


class Segments:
    """`state` is what was said with the last addition; empty at the beginning, and after `clear`."""

    def __init__(self, folder: Path, schemas: Mapping[str, pl.Schema], merges: Mapping[str, Merge]) -> None:
        """`merges`: for each table what makes one of the rows of several segments."""
        self._folder = folder
        self._schemas = schemas
        self._merges = merges
        self._rows: dict[str, int] = {}  # of each segment, the oldest first
        self.state: dict[str, Any] = {}

    def open(self) -> None:
        """Reads what there is; another process may have added to it."""
        path = self._folder / METADATA
        found = orjson.loads(path.read_bytes()) if path.exists() else {"segments": {}, "state": {}}
        self._rows, self.state = found["segments"], found["state"]

    def clear(self) -> None:
        (self._folder / METADATA).unlink(missing_ok=True)
        shutil.rmtree(self._folder, ignore_errors=True)
        self._rows, self.state = {}, {}

    def scan(self, table: str) -> pl.LazyFrame:
        """The rows of all segments; several may belong together."""
        paths = [self._path(segment, table) for segment in self._rows]
        return pl.scan_parquet(paths) if paths else pl.LazyFrame(schema=self._schemas[table])

    def add(self, tables: Tables, state: Mapping[str, Any]) -> None:
        """All of it is kept, with this state, or nothing. A segment is merged into the one before as long as that is
        less than twice its size: there are few, and a row is written again only when their sizes double.
        """
        rows, merged = dict(self._rows), dict(tables)
        while rows and list(rows.values())[-1] < 2 * _size(merged):
            last, _ = rows.popitem()
            for table, merge in self._merges.items():
                merged[table] = merge(pl.concat([pl.read_parquet(self._path(last, table)), merged[table]]))
        segment = str(1 + max(map(int, self._rows), default=0))
        shutil.rmtree(self._folder / segment, ignore_errors=True)
        (self._folder / segment).mkdir(parents=True)
        for table, frame in merged.items():
            _write(frame, self._path(segment, table))
        self._rows, self.state = {**rows, segment: _size(merged)}, dict(state)
        write_whole(self._folder / METADATA, orjson.dumps({"segments": self._rows, "state": self.state}))
        for folder in self._folder.iterdir():
            if folder.is_dir() and folder.name not in self._rows:
                shutil.rmtree(folder, ignore_errors=True)

    def _path(self, segment: str, table: str) -> Path:
        return self._folder / segment / f"{table}.parquet"


def _size(tables: Tables) -> int:
    return sum(len(table) for table in tables.values())


def _write(frame: pl.DataFrame, path: Path) -> None:
    with path.open("wb") as file:
        frame.write_parquet(file, compression="lz4")
        file.flush()
        os.fsync(file.fileno())
