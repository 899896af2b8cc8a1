"""Qdrant Edge: Qdrant's engine in this process, one folder a build."""

import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import qdrant_edge as edge

from .errors import IndexFault, IndexLost, InvalidInput, NoRoom, NotReady
from .filters import MAX_EXACT, Condition, Filter, Scalar
from .index import BREADTH, BUILT_WITH, Index, Neighbour, PayloadIndexes, check_query, check_vectors
from .types import Payload, Vectors

# Every call holds the GIL to its end: small batches let other threads in between.
BATCH = 64
READ_AHEAD = 1 << 20  # bytes
# The engine maps sparse files into memory: where the disk has no room for a page of them, the kernel kills the process
# (SIGBUS) instead of returning an error. So every write first sees to it that this much is left.
RESERVE = 64 << 20  # bytes
OPENING = (
    40 << 20
)  # at most this is taken by opening an index; less than RESERVE, so that a full one can be opened again
# The graph is walked on vectors of half a byte a dimension, which take an eighth of the memory traffic; the whole
# vectors then order so many times as many as are asked for. Short vectors, which lose too much so, get a whole byte.
# Mapped, not read into memory: an index opens ten times as fast.
OVERSAMPLING = 2.0
LONG = 64  # dimensions
_HALF_BYTE = edge.TurboQuantQuantizationConfig(bits=edge.TurboQuantBitSize.Bits4, memory=edge.Memory.Cached)
_BYTE = edge.ScalarQuantizationConfig(edge.ScalarType.Int8, quantile=0.99, memory=edge.Memory.Cached)
_RESCORED = edge.QuantizationSearchParams(rescore=True, oversampling=OVERSAMPLING)
OPEN_ELSEWHERE = "Kind(WouldBlock)"  # the engine's words for it, of the lock on its log
LINKS = 16  # of a point of the graph
SMALL = 10_000  # KB of vectors: what is smaller is scanned, which is faster there and misses little
BYTES_PER_BYTE = 5  # of disk for a byte of vectors at the peak of building; measured, see docs/learned.md


class EdgeStore:
    """Builds as folders below `folder`. A folder opens once, in one process."""

    tends_itself = False  # it could, but would stop the process that serves for all that time
    exclusive = True

    def __init__(self, folder: Path, payload_indexes: PayloadIndexes) -> None:
        self._folder = folder
        self.payload_indexes = payload_indexes
        self._open: set[str] = set()  # in this process
        self._dropped: set[str] = set()  # of these
        self._lock = threading.Lock()

    def create(self, name: str, dimension: int) -> Index:
        """Raises NotReady while one of this name is open in this process."""
        with self._lock:
            if name in self._open:
                raise _still_open(name)
        self.drop(name)
        path = self._folder / name
        path.mkdir(parents=True)
        _check_room(path, RESERVE, f"the index {name}")
        small = _HALF_BYTE if dimension >= LONG else _BYTE
        graph = edge.HnswIndexConfig(m=LINKS, ef_construct=BUILT_WITH, full_scan_threshold=SMALL)
        vectors = edge.EdgeVectorParams(
            size=dimension, distance=edge.Distance.Dot, quantization_config=small, hnsw_config=graph
        )
        optimizers = edge.EdgeOptimizersConfig(indexing_threshold=SMALL)
        # The threads that the engine keeps by default wake each other all the time, on the cores that encode.
        config = edge.EdgeConfig(vectors=vectors, optimizers=optimizers, max_search_threads=1)
        shard = edge.EdgeShard.create(str(path), config)
        for field, kind in self.payload_indexes.items():
            shard.update(edge.UpdateOperation.create_field_index(field, _SCHEMAS[kind]))
        return self._opened(shard, path)

    def open(self, name: str) -> Index:
        """Raises NotReady, too, while it is open, in this process or another one: that is no damage."""
        path = self._folder / name
        if not path.is_dir():
            raise IndexLost(f"the index folder {path} does not exist")
        _check_room(path, OPENING, f"opening the index {name}")
        _read_ahead(path)
        try:
            return self._opened(edge.EdgeShard.load(str(path)), path)
        except BaseException as error:
            if OPEN_ELSEWHERE in str(error):
                raise _still_open(name) from error
            if isinstance(error, Exception) or _is_panic(error):
                raise IndexLost(f"the index folder {path} cannot be opened: {error}") from error
            raise

    def drop(self, name: str) -> None:
        """One that is open in this process goes when it is closed: the engine would write its files again."""
        with self._lock:
            if name in self._open:
                self._dropped.add(name)
                return
        shutil.rmtree(self._folder / name, ignore_errors=True)

    def _opened(self, shard: edge.EdgeShard, path: Path) -> "EdgeIndex":
        with self._lock:
            self._open.add(path.name)
        return EdgeIndex(shard, path, lambda: self._closed(path.name))

    def _closed(self, name: str) -> None:
        with self._lock:
            self._open.discard(name)
            dropped = name in self._dropped
            self._dropped.discard(name)
        if dropped:
            self.drop(name)

    def names(self) -> list[str]:
        return sorted(path.name for path in self._folder.iterdir()) if self._folder.is_dir() else []

    def check_room(self, documents: int, dimension: int, like: str) -> None:
        vectors = documents * dimension * 4
        # Optimising writes the segments anew before it removes the old ones. What is measured also knows the payloads.
        needed = max(BYTES_PER_BYTE * vectors, 2 * _used(self._folder / like))
        self._folder.mkdir(parents=True, exist_ok=True)
        _check_room(self._folder, needed + RESERVE, f"a new index of {documents:,} documents")


class EdgeIndex:
    def __init__(self, shard: edge.EdgeShard, path: Path, closed: Callable[[], None]) -> None:
        self._shard = shard
        self._path = path
        self._closed = closed

    def upsert(self, keys: Sequence[int], vectors: Vectors, payloads: Sequence[Payload]) -> None:
        check_vectors(keys, vectors)
        for start in range(0, len(keys), BATCH):
            part = range(start, min(start + BATCH, len(keys)))
            self._check_room()
            points = [edge.Point(int(keys[i]), vectors[i].tolist(), dict(payloads[i])) for i in part]
            self._shard.update(edge.UpdateOperation.upsert_points(points))

    def delete(self, keys: Sequence[int]) -> None:
        if len(keys):
            self._check_room()
            self._shard.update(edge.UpdateOperation.delete_points([int(key) for key in keys]))

    def query(self, vector: Vectors, limit: int, filter: Filter | None = None) -> list[Neighbour]:
        check_query(vector)
        request = edge.QueryRequest(
            query=edge.Query.Nearest(vector.tolist()),
            filter=None if filter is None else _filter(filter),
            limit=limit,
            with_vector=False,
            with_payload=False,
            params=edge.SearchParams(hnsw_ef=BREADTH, quantization=_RESCORED),
        )
        try:
            found = self._shard.query(request)
        except BaseException as error:
            if _is_panic(error):
                raise IndexFault(
                    f"the index {self._path.name} cannot answer this ({error}): where it says `recursion limit`, write "
                    "the documents with the deepest payloads again, with fewer levels"
                ) from error
            raise
        return [Neighbour(int(point.id), float(point.score)) for point in found]

    def vectors(self, keys: Sequence[int]) -> dict[int, Vectors]:
        found = self._shard.retrieve([int(key) for key in keys], False, True)
        return {int(point.id): np.asarray(point.vector, dtype=np.float32) for point in found}

    def count(self) -> int:
        return self._shard.count(edge.CountRequest(exact=True))

    def finish(self) -> None:
        _check_room(self._path, _used(self._path) + RESERVE, f"optimising the index {self._path.name}")
        self._shard.optimize()
        self._shard.flush()

    def flush(self) -> None:
        self._shard.flush()

    def close(self) -> None:
        try:
            self._shard.close()
        finally:
            self._closed()

    def _check_room(self) -> None:
        _check_room(self._path, RESERVE, f"writing to the index {self._path.name}")


_SCHEMAS = {
    "keyword": edge.PayloadSchemaType.Keyword,
    "integer": edge.PayloadSchemaType.Integer,
    "float": edge.PayloadSchemaType.Float,
    "bool": edge.PayloadSchemaType.Bool,
    "datetime": edge.PayloadSchemaType.Datetime,
}


def _is_panic(error: BaseException) -> bool:
    """The engine panics on some damage, with an exception that is none."""
    return type(error).__name__ == "PanicException"


def _still_open(name: str) -> NotReady:
    return NotReady(f"the index {name} is still open, here or in another process: try again when it is closed there")


def _check_room(folder: Path, needed: int, what: str) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise NoRoom(what, needed, free, folder)


def _used(folder: Path) -> int:
    """Bytes on the disk; the files are sparse and look larger."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def _read_ahead(folder: Path) -> None:
    """Reads the files into the page cache, so that nobody waits for the disk while the engine holds the GIL."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb", buffering=0) as file:
                while file.read(READ_AHEAD):
                    pass


def _filter(filter: Filter) -> edge.Filter:
    return edge.Filter(
        must=[_condition(condition) for condition in filter.must] or None,
        should=[_condition(condition) for condition in filter.should] or None,
        must_not=[_condition(condition) for condition in filter.must_not] or None,
    )


def _condition(condition: Condition) -> Any:
    if condition.bounds is not None:
        bounds: dict[str, Any] = dict(condition.bounds)
        if all(isinstance(bound, str) for bound in bounds.values()):
            try:
                return edge.FieldCondition(condition.key, range=edge.RangeDateTime(**bounds))
            except Exception as error:
                raise InvalidInput(f"filter.{condition.key}", bounds, f"not a date ({error})") from error
        return edge.FieldCondition(condition.key, range=edge.RangeFloat(**bounds))
    if condition.none_of is not None:
        return edge.Filter(must_not=[_equals(condition.key, value) for value in condition.none_of])
    return edge.Filter(should=[_equals(condition.key, value) for value in condition.any or ()])


def _equals(key: str, value: Scalar) -> edge.FieldCondition:
    if isinstance(value, bool):
        # The binding takes a plain bool for the integer 0 or 1.
        return edge.FieldCondition(key, match=edge.MatchValue(np.bool_(value)))  # type: ignore[arg-type]
    if isinstance(value, str) or (isinstance(value, int) and abs(value) > MAX_EXACT):
        return edge.FieldCondition(key, match=edge.MatchValue(value))
    return edge.FieldCondition(key, range=edge.RangeFloat(gte=value, lte=value))
