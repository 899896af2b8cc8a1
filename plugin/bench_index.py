"""`clickloop bench index`: how the index part of a search, start-up, memory and disk grow with the documents.

Vectors are drawn around centres, as those of texts lie around topics; no document is encoded.
"""

import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..retriever.building import BATCH, Batch, make_index
from ..retriever.documents import Documents
from ..retriever.pointer import finish_switch, set_build
from ..retriever.search import Live, OpenBuild, Searcher
from ..retriever.shadow import ShadowIndex
from ..retriever.types import Build, Document, Keys, Release, Vectors
from ..retriever.vectors import scratch
from .loop import ClickLoop
from .settings import own_settings

if TYPE_CHECKING:
    from .bench import Given, Rows

SIZES = (10_000, 100_000)
MILLION = (10_000, 1_000_000)
PER_CENTRE = 50  # documents
QUERIES = 500
ROUNDS = 5
DEPTH = 10
WRITTEN = 5_000  # documents in one transaction
TEXT = "a map that holds lists of strings and returns the first one which is longer than the given number"
READY_SECONDS = 120


def index(say: Callable[[str], None], _given: "Given") -> "Rows":
    """The index part of a search (encoding excluded), start-up and memory, with clustered synthetic vectors."""
    return _by_size(SIZES, say)


def index_million(say: Callable[[str], None], _given: "Given") -> "Rows":
    """The same beside a million documents: takes 8 GiB of disk and a quarter of an hour."""
    return _by_size(MILLION, say)


def _by_size(sizes: Sequence[int], say: Callable[[str], None]) -> "Rows":
    with ExitStack() as stack:
        made = [_Sized(Path(stack.enter_context(tempfile.TemporaryDirectory())), size, say) for size in sizes]
        say("searching")
        for round_ in range(ROUNDS):
            for one in made:
                one.search(kept=round_ > 0)  # the first round warms up
        found = {}
        for size, one in zip(sizes, made, strict=True):
            figures = one.figures()
            one.close()
            say("starting the service")
            found[f"{size:,} documents"] = figures | _served(one.folder)
    names = next(iter(found.values()))
    return {name: {size: values[name] for size, values in found.items()} for name in names}


class _Sized:
    """So many documents, indexed and opened. Sizes are searched in turns, because a machine's speed changes."""

    def __init__(self, folder: Path, documents: int, say: Callable[[str], None]) -> None:
        self.folder = folder
        self._loop = loop = ClickLoop(own_settings(data_dir=folder, schedule={"enabled": False}))
        say("making the first release")
        owner = loop.make_owner()
        assert owner.acquire()
        owner.open()
        owner.close()
        live = loop.releases.live()
        assert live is not None
        release = loop.releases.get(live.release_id)
        drawn = scratch(folder, documents + QUERIES, release.dimension)
        _draw(drawn, np.random.default_rng(0))
        vectors, self._queries = drawn[:documents], np.array(drawn[documents:])
        say(f"storing {documents:,} documents")
        keys = _store(loop, vectors, release)
        build, seconds = _build(loop, release, keys, vectors, say)
        disk = sum(path.stat().st_blocks * 512 for path in (folder / "builds" / build.id).rglob("*"))
        say("exact search")
        self._exact = ShadowIndex(keys, vectors).query(self._queries, DEPTH)[0]
        began = time.perf_counter()
        self._opened = OpenBuild(build, release, _Prepared(self._queries), loop.store.open(build.id))
        self._figures = {
            "building, docs/s": f"{documents / seconds:,.0f}",
            "opening, s": f"{time.perf_counter() - began:.2f}",
            "disk, bytes/doc": f"{disk / documents:,.0f}",
        }
        self._live = Live()
        self._live.install(self._opened)
        self._searcher = Searcher(self._live, Documents(loop.database), loop.log)
        self._engine: list[float] = []
        self._whole: list[float] = []
        self._shares: list[float] = []

    def search(self, kept: bool) -> None:
        """One round; times are kept in milliseconds. Engine and search take different queries by turns, so that neither
        finds in the caches what the other has just read.
        """
        for number, query in enumerate(self._queries):
            other = str((number + QUERIES // 2) % QUERIES)
            began = time.perf_counter()
            neighbours = self._opened.index.query(query, DEPTH)
            between = time.perf_counter()
            self._searcher.search(other, DEPTH, log=False)
            ended = time.perf_counter()
            if kept:
                self._engine.append(1000 * (between - began))
                self._whole.append(1000 * (ended - between))
                same = {neighbour.key for neighbour in neighbours} & set(self._exact[number].tolist())
                self._shares.append(len(same) / DEPTH)

    def figures(self) -> dict[str, str]:
        return self._figures | {
            "engine p50, ms": f"{np.median(self._engine):.2f}",
            "search p50, ms": f"{np.median(self._whole):.2f}",
            "search p99, ms": f"{np.percentile(self._whole, 99):.2f}",
            "recall@10": f"{np.mean(self._shares):.4f}",
        }

    def close(self) -> None:
        self._live.close()
        self._loop.close()


def _draw(vectors: Vectors, rng: np.random.Generator) -> None:
    """Fills the rows with vectors of length 1 around centres, about .5 alike within one."""
    rows, dimension = vectors.shape
    centres = rng.standard_normal((max(rows // PER_CENTRE, 1), dimension), dtype=np.float32)
    for start in range(0, rows, WRITTEN):
        part = vectors[start : start + WRITTEN]
        drawn = centres[rng.integers(0, len(centres), len(part))]
        drawn = drawn + rng.standard_normal(drawn.shape, dtype=np.float32)
        part[:] = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def _store(loop: ClickLoop, vectors: Vectors, release: Release) -> Keys:
    """Documents and their vectors, written straight: as if they had been encoded."""
    keys, log = np.arange(1, len(vectors) + 1), loop.releases.vectors(release)
    for start in range(0, len(vectors), WRITTEN):
        part = keys[start : start + WRITTEN]
        loop.documents.put([Document(f"d{key}", f"title {key}", f"{TEXT} {key}") for key in part])
        log.append(part, part, vectors[start : start + WRITTEN])
    return keys


def _build(
    loop: ClickLoop, release: Release, keys: Keys, vectors: Vectors, say: Callable[[str], None]
) -> tuple[Build, float]:
    """A live build and the seconds that making it took, like a promotion's."""

    def batches() -> Iterator[Batch]:
        for start in range(0, len(keys), BATCH):
            part = keys[start : start + BATCH].tolist()
            yield part, np.asarray(vectors[start : start + BATCH]), [{}] * len(part)

    build, began = loop.releases.add_build(release.id), time.perf_counter()
    say("building the index")
    make_index(loop.store, build.id, release.dimension, batches(), lambda _done: None).close()
    seconds = time.perf_counter() - began
    number = loop.releases.request_switch(build.id, "compaction", "bench")
    revision = loop.documents.revision()
    with loop.database.write() as connection:
        finish_switch(connection, number)
        set_build(connection, build.id, revision=revision, optimized=revision)
    return loop.releases.build(build.id), seconds


class _Prepared:
    """An encoder that knows the vector of every query by its number."""

    def __init__(self, queries: Vectors) -> None:
        self._queries = queries

    def query(self, text: str) -> Vectors:
        vector: Vectors = self._queries[int(text)]
        return vector

    def documents(self, documents: Any) -> Vectors:
        raise TypeError(f"{documents!r}: the documents were encoded when the index was made")


def _served(folder: Path) -> dict[str, str]:
    """A service on the folder: seconds until it is ready, and its memory by then and after some searches."""
    key = "a-key-for-the-bench"
    variables = os.environ | {"CLICKLOOP_ADMIN_KEY": key, "CLICKLOOP_SCHEDULE__ENABLED": "false"}
    command = [sys.executable, "-m", "clickloop.plugin.cli", "serve", "--port", "0", "--data-dir", str(folder)]
    began = time.perf_counter()
    with subprocess.Popen(command, env=variables, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            address = next(line for line in server.stderr if line.startswith("clickloop: http")).split()[1]
            while not _ready(address):
                if time.perf_counter() - began > READY_SECONDS:
                    raise TimeoutError(f"the service was not ready within {READY_SECONDS} s")
                time.sleep(0.01)
            ready = time.perf_counter() - began
            at_first = _memory(server.pid)
            for number in range(QUERIES):
                body = f'{{"query": "list number {number}"}}'.encode()
                headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
                urllib.request.urlopen(urllib.request.Request(f"{address}/v1/search", body, headers)).read()
            later = _memory(server.pid)
            torch = "libtorch" in Path(f"/proc/{server.pid}/maps").read_text()
        finally:
            server.terminate()
            server.communicate()
    return {
        "ready, s": f"{ready:.2f}",
        "memory, MiB": " + ".join(f"{part:.0f}" for part in at_first),
        f"after {QUERIES} searches": " + ".join(f"{part:.0f}" for part in later),
        "torch loaded": "yes" if torch else "no",
    }


def _ready(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/ready"):
            return True
    except (urllib.error.URLError, ConnectionError):
        return False


def _memory(pid: int) -> tuple[float, float]:
    """MiB of its own, and of files that it has in memory, which the system may take back."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return tuple(int(fields[name].split()[0]) / 1024 for name in ("RssAnon", "RssFile"))  # type: ignore[return-value]
