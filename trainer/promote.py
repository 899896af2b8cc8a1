"""From judged vectors to a build that is ready, and from there to the owner."""

import time
from collections.abc import Callable

import numpy as np

from ..retriever.database import Database
from ..retriever.errors import IndexFault
from ..retriever.index import Index, IndexStore
from ..retriever.owner import Owner, await_switch
from ..retriever.releases import Releases, set_build
from ..retriever.shadow import ShadowIndex
from ..retriever.types import Release, Vectors
from .corpus import Corpus

CHECKED_QUERIES = 200
DEPTH = 10
STEP = 512


def build_index(
    store: IndexStore,
    build_id: str,
    release: Release,
    corpus: Corpus,
    vectors: Vectors,
    progress: Callable[[float], None],
) -> Index:
    """A new index in its final place, from the vectors that were judged."""
    index = store.create(build_id, release.dimension)
    keys = corpus.keys.tolist()
    for start in range(0, len(keys), STEP):
        part = slice(start, start + STEP)
        payloads = [stored.document.payload for stored in corpus.documents[part]]
        index.upsert(keys[part], vectors[part], payloads)
        progress(min(start + STEP, len(keys)) / len(keys))
    index.finish()
    return index


def check_index(
    index: Index, corpus: Corpus, vectors: Vectors, queries: Vectors, min_recall: float
) -> dict[str, float]:
    """Count, a sample of the stored vectors, and recall@10 against exact search, with the median query time.

    Raises IndexFault that says what does not hold.
    """
    if (found := index.count()) != len(corpus.keys):
        raise IndexFault(f"the new index holds {found} documents instead of {len(corpus.keys)}")
    sample = np.linspace(0, len(corpus.keys) - 1, num=min(50, len(corpus.keys)), dtype=int)
    stored = index.vectors(corpus.keys[sample].tolist())
    for row in sample:
        found_vector = stored.get(int(corpus.keys[row]))
        if found_vector is None or not np.allclose(found_vector, vectors[row], atol=1e-4):
            raise IndexFault(f"the new index holds another vector for key {corpus.keys[row]} than was judged, or none")
    queries = queries[:CHECKED_QUERIES]
    exact = ShadowIndex(corpus.keys, vectors).query(queries, DEPTH)[0]
    shares, times = [], []
    for vector, expected in zip(queries, exact, strict=True):
        started = time.perf_counter()
        neighbours = index.query(vector, DEPTH)
        times.append((time.perf_counter() - started) * 1000)
        shares.append(len({n.key for n in neighbours} & set(expected.tolist())) / len(expected))
    recall = float(np.mean(shares)) if shares else 1.0
    if recall < min_recall:
        raise IndexFault(f"recall@10 of the new index against exact search is {recall:.3f}, needed {min_recall:g}")
    return {"recall@10": recall, "query_ms": float(np.median(times)) if times else 0.0}


def mark_ready(database: Database, build_id: str, revision: int) -> None:
    """Says in the database that the index is whole up to this revision: the last step of making it."""
    with database.write() as connection:
        set_build(connection, build_id, state="ready", revision=revision)


def hand_over(releases: Releases, run_id: str, build_id: str, make_owner: Callable[[], Owner]) -> str | None:
    """Asks the owner to switch and waits for the answer. Returns None, or why the switch was refused."""
    switch = releases.switch_of_run(run_id)
    number = switch.id if switch is not None else releases.request_switch(build_id, "promotion", run_id, run_id)
    return await_switch(releases, number, make_owner).error
