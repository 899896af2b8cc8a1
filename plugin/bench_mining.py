"""`clickloop bench mining`: what reading a long log costs a night, and what the history costs the nights after it. Each
night is a process of its own, so that its memory can be told.
"""

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
from sqlalchemy import Column, Table

from ..retriever.database import Database
from ..retriever.schema import events, searches, shown
from ..retriever.types import Release
from ..trainer.history import History
from ..trainer.lessons import read_lessons
from ..trainer.recipe import Recipe
from ..trainer.snapshot import bounds_now

if TYPE_CHECKING:
    from .bench import Given, Rows

LOG_ROWS = 10_000_000  # results shown and clicks together
NEW_ROWS = 100_000
NIGHTS = 3  # after each history, in turn
QUERIES, DOCUMENTS, PEOPLE, SHOWN = 400_000, 100_000, 500_000, 10
ZIPF = 0.6
RIGHT, NOISE = 0.8, 0.1  # clicks on the right and on other documents, of those who look; rank r with 1/r
BLOCK = 20_000  # searches written together
FORMER, CHAMPION = "release-1", "release-2"


@dataclass(frozen=True, slots=True)
class Night:
    """What reading the log cost a night, in seconds and MiB, and the training pairs it found."""

    seconds: float
    cpu_seconds: float
    peak: float
    pairs: int


def mining(say: Callable[[str], None], _given: "Given") -> "Rows":
    """Reading and mining 10 million shown results and clicks, and 100,000 more after them and after a short log."""
    with tempfile.TemporaryDirectory() as folder:
        logs = {name: _Log(Path(folder) / name) for name in ("short", "long")}
        wanted = {"short": NEW_ROWS, "long": LOG_ROWS}
        rows, first = {}, {}
        for name, log in logs.items():
            say(f"writing {wanted[name]:,} rows")
            counts = log.grow(wanted[name], FORMER)
            say(f"the first night of {wanted[name]:,} rows")
            first[name] = log.night(FORMER)
            rows[f"{wanted[name]:,} rows in one night"] = _cells(counts, first[name])
        later: dict[str, list[Night]] = {name: [] for name in logs}
        for number in range(NIGHTS):
            for name, log in logs.items():
                counts = log.grow(NEW_ROWS, CHAMPION)
                say(f"night {number + 1} of {NIGHTS} after {wanted[name]:,} rows")
                later[name].append(log.night(CHAMPION))
        for name, nights in later.items():
            rows[f"{NEW_ROWS:,} more after {wanted[name]:,}"] = _cells(counts, _median(nights))
        short, long = (_median(later[name]) for name in ("short", "long"))
        ratio = {"wall": f"{long.seconds / short.seconds:.2f}", "CPU": f"{long.cpu_seconds / short.cpu_seconds:.2f}"}
        rows["after the long one / the short one"] = {**dict.fromkeys(next(iter(rows.values())), ""), **ratio}
        return rows


def _cells(counts: tuple[int, int], night: Night) -> dict[str, str]:
    return {
        "searches": f"{counts[0]:,}",
        "clicks": f"{counts[1]:,}",
        "wall": f"{night.seconds:.1f} s",
        "CPU": f"{night.cpu_seconds:.1f} s",
        "peak memory": f"{night.peak:,.0f} MiB",
        "pairs": f"{night.pairs:,}",
    }


def _median(nights: list[Night]) -> Night:
    middle = {name: statistics.median(asdict(night)[name] for night in nights) for name in asdict(nights[0])}
    return Night(**{**middle, "pairs": nights[-1].pairs})


class _Log:
    """A log that grows. Each query shows ten documents, of which one is right, in one of two orders."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self.database = Database(_url(folder))
        self._random = np.random.default_rng(0)
        weights = np.arange(1, QUERIES + 1) ** -ZIPF
        self._shares = np.cumsum(weights / weights.sum())
        self._searches = 0

    def grow(self, rows: int, release: str) -> tuple[int, int]:
        """Adds so many rows or a few more; returns how many searches and clicks that are."""
        searched = clicked = 0
        while searched * SHOWN + clicked < rows:
            count = min(BLOCK, (rows - searched * SHOWN - clicked) // SHOWN + 1)
            clicked += self._write(count, release)
            searched += count
        return searched, clicked

    def night(self, release: str) -> Night:
        command = [sys.executable, "-m", "clickloop.plugin.bench_mining", str(self._folder), release]
        return Night(**orjson.loads(subprocess.run(command, check=True, capture_output=True).stdout))

    def _write(self, count: int, release: str) -> int:
        random, first = self._random, self._searches + 1
        self._searches += count
        query = np.searchsorted(self._shares, random.random(count))
        person = random.integers(PEOPLE, size=count)
        place = np.arange(SHOWN)
        page = (query[:, None] * 7919 + (place + random.integers(2, size=(count, 1))) % SHOWN * 104_729) % DOCUMENTS
        right = (query[:, None] * 7919 + query[:, None] % 7 % SHOWN * 104_729) % DOCUMENTS == page
        looked = random.random((count, SHOWN)) < 1 / (place + 1)
        clicks = looked & (random.random((count, SHOWN)) < np.where(right, RIGHT, NOISE))
        asked = [
            (
                first + i,
                f"{first + i:032x}",
                f"what is {q % 997} of {q}",
                10,
                "build",
                release,
                1.0,
                1e9 + first,
                f"p{p}",
            )
            for i, (q, p) in enumerate(zip(query.tolist(), person.tolist(), strict=True))
        ]
        results = [
            (first + i, rank, f"document {id_}", "semantic", 1.0)
            for i, ids in enumerate(page.tolist())
            for rank, id_ in enumerate(ids, 1)
        ]
        done = [
            (f"{first + i:032x}-{rank}", f"{first + i:032x}", True, "click", f"document {page[i, rank]}", 1e9 + first)
            for i, rank in zip(*(found.tolist() for found in np.nonzero(clicks)), strict=True)
        ]
        c, s, e = searches.c, shown.c, events.c
        columns: dict[Table, tuple[Column[Any], ...]] = {
            searches: (c.seq, c.query_id, c.query, c.k, c.build_id, c.release_id, c.took_ms, c.arrived_at, c.client_id),
            shown: (s.search_seq, s.rank, s.document_id, s.ranker, s.propensity),
            events: (e.event_id, e.query_id, e.query_known, e.action, e.document_id, e.arrived_at),
        }
        with self.database.write() as connection:
            batches: tuple[list[tuple[Any, ...]], ...] = (asked, results, done)
            for (table, names), rows in zip(columns.items(), batches, strict=True):
                places = ", ".join("?" * len(names))
                named = ", ".join(column.name for column in names)
                connection.exec_driver_sql(f"INSERT INTO {table.name} ({named}) VALUES ({places})", rows)
        return len(done)


def _url(folder: Path) -> str:
    return f"sqlite:///{folder / 'clickloop.db'}"


def main() -> None:
    """One night that reads the log of a folder under a champion, and prints what it cost."""
    folder, champion = Path(sys.argv[1]), sys.argv[2]
    database, recipe = Database(_url(folder)), Recipe()
    release = Release(champion, None, 0, "", "", "", 0, "", {}, {}, 0.0)
    began, cpu = time.monotonic(), time.process_time()
    lessons = read_lessons(History(folder / "history", database, recipe), bounds_now(database), release, recipe)
    seconds, cpu_seconds = time.monotonic() - began, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux
    sys.stdout.buffer.write(orjson.dumps(asdict(Night(seconds, cpu_seconds, peak, len(lessons.training)))))


if __name__ == "__main__":
    main()
