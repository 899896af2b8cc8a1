"""From judged vectors to a build that is ready, and from there to the owner or first to an admin."""

import time
from collections.abc import Callable, Sequence

import numpy as np

from ..retriever.database import Database
from ..retriever.encoder import truncated
from ..retriever.errors import IndexFault
from ..retriever.index import Index, IndexStore
from ..retriever.owner import Owner, await_switch
from ..retriever.releases import Releases, set_build
from ..retriever.types import Vectors
from .challenge import Challengers
from .contest import Side
from .corpus import Corpus
from .recipe import Promotion
from .runs import Run, Runs
from .steps import Steps

CHECKED_QUERIES = 200
DEPTH = 10
STEP = 512


class Promoter:
    """A night's way from a decision to a live build, in steps that may be done again."""

    def __init__(
        self,
        database: Database,
        releases: Releases,
        store: IndexStore,
        make_owner: Callable[[], Owner],
        dials: Promotion,
    ) -> None:
        self._database = database
        self._runs = Runs(database)
        self._challengers = Challengers(database)
        self._releases = releases
        self._store = store
        self._make_owner = make_owner
        self._dials = dials

    def ready(self, build_id: str) -> bool:
        """Whether this build was made to its end."""
        return any(build.id == build_id for state in ("ready", "retired") for build in self._releases.builds(state))

    def build(self, run: Run, steps: Steps, corpus: Corpus, candidate: Side, queries: Sequence[str]) -> str:
        """A new index from the judged vectors, checked with these queries; returns its build.

        What a crash left half made is redone.
        """
        build_id = run.id.replace("run-", "build-", 1)
        if self.ready(build_id):
            return build_id
        live = self._releases.live()
        assert live is not None
        self._store.check_room(len(corpus.keys), candidate.release.dimension, like=live.id)
        self._releases.add_build(candidate.release.id, build_id)
        try:
            index = build_index(self._store, build_id, corpus, candidate, steps.progress)
            try:
                steps.begin("checking the new index")
                probes = candidate.queries(queries)
                checks: dict[str, float] = check_index(index, candidate, probes, self._dials.min_recall)
            finally:
                index.close()
        except Exception:
            self._store.drop(build_id)
            self._releases.forget_build(build_id)
            raise
        folder = self._releases.folder(candidate.release.id)
        cut = truncated(folder, candidate.release, [stored.document for stored in corpus.documents])
        self._runs.detail(run.id, build={**checks, "documents": len(corpus.keys), "truncated": cut})
        mark_ready(self._database, build_id, corpus.revision)
        return build_id

    def hand_over(self, run: Run, steps: Steps, build_id: str) -> None:
        """To the owner, or first to an admin who has to approve. From here on a resumed run only waits for the switch:
        `build_id` is what the gate let through, never the build of a candidate short of evidence.
        """
        self._runs.update(run.id, build_id=build_id)
        reasons = self._runs.get(run.id).reasons
        release_id = self._releases.build(build_id).release_id
        if self._dials.mode == "approve":
            self._challengers.leave(release_id)
            self._runs.wait_for_approval(run.id)
            return
        steps.begin("handing over")
        refused = ask_owner(self._releases, run.id, build_id, self._make_owner)
        if refused is None:
            self._runs.supersede(run.id)
            self._runs.finish(run.id, "promoted", reasons)
        else:
            if self._challengers.any() == release_id:
                self._challengers.drop()  # otherwise it would win, and be refused, every night
            self._runs.finish(run.id, "rejected", [*reasons, f"the switch was refused: {refused}"])


def build_index(
    store: IndexStore,
    build_id: str,
    corpus: Corpus,
    side: Side,
    progress: Callable[[float], None],
) -> Index:
    """A new index in its final place, from the vectors that were judged."""
    index = store.create(build_id, side.release.dimension)
    keys = corpus.keys.tolist()
    for start in range(0, len(keys), STEP):
        part = slice(start, start + STEP)
        payloads = [stored.document.payload for stored in corpus.documents[part]]
        index.upsert(keys[part], side.vectors[part], payloads)
        progress(min(start + STEP, len(keys)) / len(keys))
    index.finish()
    return index


def check_index(index: Index, side: Side, queries: Vectors, min_recall: float) -> dict[str, float]:
    """Count, a sample of the stored vectors, and recall@10 against exact search, with the median query time.

    Raises IndexFault that says what does not hold.
    """
    keys = side.keys
    if (found := index.count()) != len(keys):
        raise IndexFault(f"the new index holds {found} documents instead of {len(keys)}")
    sample = np.linspace(0, len(keys) - 1, num=min(50, len(keys)), dtype=int)
    stored = index.vectors(keys[sample].tolist())
    for row in sample:
        found_vector = stored.get(int(keys[row]))
        if found_vector is None or not np.allclose(found_vector, side.vectors[row], atol=1e-4):
            raise IndexFault(f"the new index holds another vector for key {keys[row]} than was judged, or none")
    queries = queries[:CHECKED_QUERIES]
    exact = side.shadow.query(queries, DEPTH)[0]
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


def ask_owner(releases: Releases, run_id: str, build_id: str, make_owner: Callable[[], Owner]) -> str | None:
    """Asks the owner to switch and waits for the answer. Returns None, or why the switch was refused."""
    switch = releases.switch_of_run(run_id)
    number = switch.id if switch is not None else releases.request_switch(build_id, "promotion", run_id, run_id)
    return await_switch(releases, number, make_owner).error
