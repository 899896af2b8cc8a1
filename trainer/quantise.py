"""Encoding queries with a byte for each weight: faster, and decided by what the artefacts that would serve find."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from sqlalchemy import select

from ..retriever.database import Database
from ..retriever.documents import Documents
from ..retriever.errors import Conflict, NotReady
from ..retriever.index import IndexStore
from ..retriever.locks import Lock
from ..retriever.pointer import add_switch, set_build
from ..retriever.releases import Releases, drop_half_made
from ..retriever.schema import builds, searches, switches
from ..retriever.schema import live as pointer
from ..retriever.serving import QUANTISED, WHOLE
from ..retriever.types import Build, Release
from .contest import Contest, Side
from .corpus import Corpus, corpus_vectors, read_corpus
from .golden import read_golden
from .guards import LATENCY, Guarded
from .promote import build_index, check_index
from .recipe import Guards, Recipe
from .steps import Progress

ASKED = 1000  # of people's newest queries, whose answers are compared
DEPTH = 10


@dataclass(frozen=True, slots=True)
class Finding:
    """`guards` compare quantised with whole queries; `same` is the share of the ten best documents that both find for
    `texts`, queries of people or, where there are none, titles. `switch`: the wish to go live, if it is harmless.
    """

    guards: Sequence[Guarded]
    same: float
    texts: Sequence[str]
    switch: int | None = None


class Quantiser:
    """Makes a release of the live model whose queries are quantised, and asks for its switch if that is harmless."""

    def __init__(self, database: Database, releases: Releases, store: IndexStore, lock: Lock, recipe: Recipe) -> None:
        """While `lock` is held no nightly run starts."""
        self._database = database
        self._documents = Documents(database)
        self._releases = releases
        self._store = store
        self._lock = lock
        self._recipe = recipe

    def run(self, tolerance: float, show: Progress) -> Finding:
        """Harmless is a loss of which the 95 % interval stays above −`tolerance`.

        Raises Conflict where that cannot be done, now or at all, ModelError, NoRoom, and InvalidInput as `read_golden`
        does.
        """
        if not self._lock.acquire():
            raise Conflict(f"a nightly run or a compaction is active ({self._lock.holder()}): wait for its end")
        try:
            present = self._present()
            self._check_time()
            drop_half_made(self._releases, self._store)
            show("quantising", 0)
            release = self._releases.quantised(present)
            build = self._releases.add_build(release.id)  # from now on no tombstone is forgotten
            switch = None
            try:
                found, corpus, small = self._compared(present, release, tolerance, show)
                if harmless(found.guards):
                    switch = self._wished(build, corpus, small, found.texts, show)
                return replace(found, switch=switch)
            finally:
                if switch is None:
                    self._store.drop(build.id)
                    self._releases.forget_build(build.id)
                    self._releases.drop_unused(release.id)
        finally:
            self._lock.release()

    def _present(self) -> Release:
        live = self._releases.live()
        if live is None:
            raise NotReady("no build is live yet; the first `clickloop ingest` or `clickloop serve` makes one")
        present = self._releases.get(live.release_id)
        if present.engine == QUANTISED:
            raise Conflict(f"the queries of {present.id} are quantised already; `clickloop rollback` undoes it")
        if present.engine != WHOLE:
            raise Conflict(f"{present.id} is served by torch, because its export failed: only exports can be quantised")
        return present

    def _check_time(self) -> None:
        """Raises Conflict when a run or a wish is about to move the pointer."""
        if self._releases.run_is_active():
            raise Conflict("a nightly run was interrupted and goes on later: wait for its end")
        if self._releases.wanted() is not None:
            raise Conflict("another switch is asked for: wait until it is done")

    def _compared(
        self, present: Release, release: Release, tolerance: float, show: Progress
    ) -> tuple[Finding, Corpus, Side]:
        """What the guards say, about which documents, and the side that would serve."""
        golden = read_golden(self._recipe.golden)
        corpus = read_corpus(self._documents)
        if not len(corpus.keys):
            raise Conflict("there are no documents to compare by: add some first")
        vectors = corpus_vectors(
            corpus, release, self._releases, lambda share: show("embedding documents", share), keep=True
        )
        whole, small = (
            Side(one, corpus.keys, vectors, self._releases.encoder(one).query) for one in (present, release)
        )
        show("comparing what is found", 0)
        contest = Contest(corpus, whole, small)
        texts = self._queries() or [
            stored.document.title or stored.document.text for stored in corpus.documents[:ASKED]
        ]
        scores = None if golden is None else contest.golden(golden)
        dials = Guards(self_retrieval=tolerance, identifiers=tolerance, golden=tolerance, latency=0)
        guards = [guard for guard in contest.guards(dials, texts, scores) if guard.name != "collapse"]
        return Finding(guards, _same(whole, small, texts), texts), corpus, small

    def _wished(self, build: Build, corpus: Corpus, side: Side, texts: Sequence[str], show: Progress) -> int:
        """The wish for the switch to a new index. It is made together with the build that is ready for it, and only if
        nothing else went live or is about to.
        """
        live = self._releases.live()
        assert live is not None
        self._store.check_room(len(corpus.keys), side.release.dimension, like=live.id)
        index = build_index(self._store, build.id, corpus, side, lambda share: show("building the index", share))
        try:
            show("checking the index", 0)
            check_index(index, side, side.queries(texts), self._recipe.promotion.min_recall)
        finally:
            index.close()
        asked = select(switches.c.id).where(switches.c.state == "requested").limit(1)
        with self._database.write() as connection:
            present = connection.scalar(select(builds.c.release_id).join(pointer))
            if present != side.release.parent or connection.scalar(asked) is not None:
                raise Conflict(f"superseded: {side.release.parent} is no longer live, or will not be")
            set_build(connection, build.id, state="ready", revision=corpus.revision, optimized=corpus.revision)
            return add_switch(connection, build.id, "quantisation", "cli", None)

    def _queries(self) -> list[str]:
        """The different ones of people's newest queries."""
        newest = select(searches.c.query).order_by(searches.c.seq.desc()).limit(ASKED)
        with self._database.read() as connection:
            return list(dict.fromkeys(connection.scalars(newest)))


def harmless(guards: Sequence[Guarded]) -> bool:
    """Whether all hold and one of those that ask for documents says something."""
    telling = [guard for guard in guards if guard.name != LATENCY and not guard.silent]
    return bool(telling) and all(guard.holds for guard in guards)


def _same(whole: Side, small: Side, texts: Sequence[str]) -> float:
    first, second = (side.shadow.query(side.queries(texts), DEPTH)[0] for side in (whole, small))
    return float(np.mean([len(set(a) & set(b)) / len(a) for a, b in zip(first.tolist(), second.tolist(), strict=True)]))
