"""Making a whole index at once, and checking it before it may go live."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

import numpy as np

from .errors import IndexFault
from .index import Index, IndexStore
from .types import Keys, Payload, Vectors

BATCH = 512
SAMPLE = 50  # vectors that are compared
CHECKED_QUERIES = 200
DEPTH = 10
ROWS = 1 << 16  # compared at a time
ROUNDING = 1e-4  # of scores and vectors, between engines
Batch = tuple[Sequence[int], Vectors, Sequence[Payload]]


def make_index(
    store: IndexStore, build_id: str, dimension: int, batches: Iterator[Batch], progress: Callable[[int], None]
) -> Index:
    """A new index in its final place, optimised. `progress` gets the number of documents that are in it."""
    index = store.create(build_id, dimension)
    done = 0
    try:
        for keys, vectors, payloads in batches:
            index.upsert(keys, vectors, payloads)
            done += len(keys)
            progress(done)
        index.finish()
    except BaseException:
        with suppress(Exception):  # the first error says what is wrong
            index.close()
        raise
    return index


def verify_index(
    index: Index,
    keys: Keys,
    vectors: Callable[[Keys], Vectors],
    queries: Vectors,
    worst: Callable[[Vectors], Vectors],
    min_recall: float,
) -> dict[str, float]:
    """Count, a sample of the stored vectors, and recall@10 against exact search, with the median query time.

    `vectors` gives those of some rows of `keys`, which ascend, `worst` the exact score of the tenth hit of each query:
    whatever scores as much is as good, also where documents have the same vector. Raises IndexFault that says what does
    not hold.
    """
    if (found := index.count()) != len(keys):
        raise IndexFault(f"the new index holds {found} documents instead of {len(keys)}")
    sample = np.linspace(0, len(keys) - 1, num=min(SAMPLE, len(keys)), dtype=np.int64)
    stored = index.vectors(keys[sample].tolist())
    for row, wanted in zip(sample, vectors(sample), strict=True):
        held = stored.get(int(keys[row]))
        if held is None or not np.allclose(held, wanted, atol=ROUNDING):
            raise IndexFault(f"the new index holds another vector for key {keys[row]} than it was made from, or none")
    queries = queries[:CHECKED_QUERIES]
    depth = min(DEPTH, len(keys))
    shares, times = [], []
    for vector, least in zip(queries, worst(queries), strict=True):
        started = time.perf_counter()
        neighbours = index.query(vector, depth)
        times.append((time.perf_counter() - started) * 1000)
        rows = np.minimum(np.searchsorted(keys, [neighbour.key for neighbour in neighbours]), len(keys) - 1)
        shares.append(np.count_nonzero(vectors(rows) @ vector >= least - ROUNDING) / depth)
    recall = float(np.mean(shares)) if shares else 1.0
    if recall < min_recall:
        raise IndexFault(f"recall@10 of the new index against exact search is {recall:.3f}, needed {min_recall:g}")
    return {"recall@10": recall, "query_ms": float(np.median(times)) if times else 0.0}


def tenth_best(queries: Vectors, vectors: Vectors) -> Vectors:
    """The exact score of the tenth best, or of the last, of these vectors for each query; in little memory."""
    best = np.empty((len(queries), 0), dtype=np.float32)
    for start in range(0, len(vectors), ROWS):
        best = np.concatenate([best, queries @ vectors[start : start + ROWS].T], axis=1)
        cut = max(best.shape[1] - DEPTH, 0)
        best = np.partition(best, cut, axis=1)[:, cut:]
    worst: Vectors = best.min(axis=1, initial=np.inf)
    return worst
