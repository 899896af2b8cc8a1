"""From judged vectors to a build that is ready, and from there to the owner or first to an admin."""

from collections.abc import Callable, Iterator, Sequence

from ..retriever.building import BATCH, Batch, make_index, verify_index
from ..retriever.database import Database
from ..retriever.index import Index, IndexStore
from ..retriever.owner import Owner, await_switch
from ..retriever.pointer import set_build
from ..retriever.releases import Releases
from ..retriever.serving import truncated
from ..retriever.types import Vectors
from .challenge import Challengers
from .contest import Side
from .corpus import Corpus
from .recipe import Promotion
from .runs import Run, Runs
from .steps import Steps

DEPTH = 10


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

    def build(
        self,
        run: Run,
        steps: Steps,
        corpus: Corpus,
        candidate: Side,
        queries: Sequence[str],
        part: str | None = None,
    ) -> str:
        """A new index from the judged vectors, checked with these queries; returns its build.

        What a crash left half made is redone, and what it left of another candidate of this run too.
        """
        build_id = run.id.replace("run-", "build-", 1)
        if self.ready(build_id) and self._releases.build(build_id).release_id == candidate.release.id:
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
        self._runs.detail(run.id, part, build={**checks, "documents": len(corpus.keys), "truncated": cut})
        mark_ready(self._database, build_id, corpus.revision)
        return build_id

    def hand_over(self, run: Run, steps: Steps, build_id: str) -> bool:
        """To the owner, or first to an admin who has to approve; whether it is live now, which leaves the run to be
        finished. From here on a resumed run only waits for the switch: `build_id` is what the gate let through, never
        the build of a candidate short of evidence.
        """
        self._runs.update(run.id, build_id=build_id)
        release_id = self._releases.build(build_id).release_id
        if self._dials.mode == "approve":
            self._challengers.leave(release_id)
            self._runs.wait_for_approval(run.id)
            return False
        steps.begin("handing over")
        if ask_owner(self._releases, run.id, build_id, self._make_owner) is None:
            self._runs.supersede(run.id)
            return True
        if self._challengers.any() == release_id:
            self._challengers.drop()  # otherwise it would win, and be refused, every night
        self._runs.finish(run.id, "rejected", self._runs.get(run.id).reasons)  # the refusal is among them
        return False


def build_index(
    store: IndexStore,
    build_id: str,
    corpus: Corpus,
    side: Side,
    progress: Callable[[float], None],
) -> Index:
    """A new index in its final place, from the vectors that were judged."""

    def batches() -> Iterator[Batch]:
        for start in range(0, len(corpus.keys), BATCH):
            part = slice(start, start + BATCH)
            payloads = [stored.document.payload for stored in corpus.documents[part]]
            yield corpus.keys[part].tolist(), side.vectors[part], payloads

    total = len(corpus.keys)
    return make_index(store, build_id, side.release.dimension, batches(), lambda done: progress(done / total))


def check_index(index: Index, side: Side, queries: Vectors, min_recall: float) -> dict[str, float]:
    """Against the vectors that were judged and their exact search. Raises IndexFault that says what does not hold."""
    return verify_index(
        index,
        side.keys,
        side.vectors.__getitem__,
        queries,
        lambda asked: side.shadow.query(asked, DEPTH)[1][:, -1],
        min_recall,
    )


def mark_ready(database: Database, build_id: str, revision: int) -> None:
    """Says in the database that the index is whole up to this revision: the last step of making it."""
    with database.write() as connection:
        set_build(connection, build_id, state="ready", revision=revision, optimized=revision)


def ask_owner(releases: Releases, run_id: str, build_id: str, make_owner: Callable[[], Owner]) -> str | None:
    """Asks the owner to switch and waits for the answer. Returns None, or why the switch was refused."""
    switch = releases.switch_of_run(run_id)
    number = switch.id if switch is not None else releases.request_switch(build_id, "promotion", run_id, run_id)
    return await_switch(releases, number, make_owner).error
