"""Champion and candidate over one corpus, by the artefacts that serve, on the searches of a log."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
import polars as pl

from ..retriever.shadow import ShadowIndex
from ..retriever.types import Keys, Release, Vectors
from .click_models import ClickModel
from .clicks import corrected_gains, judge
from .corpus import Corpus
from .evaluate import DEPTH, Result, compare, judged_queries
from .golden import Golden, GoldenScores, score
from .guards import Guarded, collapse, identifiers, latency, retrieval, titles
from .guards import golden as golden_guard
from .recipe import Guards
from .tally import counted


@dataclass(frozen=True)
class Side:
    """A release with its vectors of the documents with these keys, and how it encodes a query."""

    release: Release
    keys: Keys
    vectors: Vectors
    encode: Callable[[str], Vectors]

    @cached_property
    def shadow(self) -> ShadowIndex:
        return ShadowIndex(self.keys, self.vectors)

    def part(self, rows: Keys) -> "Side":
        """The same release over some of the documents."""
        return replace(self, keys=self.keys[rows], vectors=self.vectors[rows])

    def queries(self, texts: Sequence[str]) -> Vectors:
        """One row a query, encoded as they will be served: one by one."""
        if not texts:
            return np.zeros((0, self.release.dimension), dtype=np.float32)
        return np.stack([self.encode(text) for text in texts])


class Contest:
    def __init__(self, corpus: Corpus, champion: Side, candidate: Side) -> None:
        self._documents = corpus.documents
        self._ids = {stored.key: stored.document.id for stored in corpus.documents}
        self._sides = champion, candidate

    def results(self, tallies: pl.DataFrame, clicks: ClickModel, wordings: Mapping[str, str]) -> list[Result]:
        """Per-query results by these tallies (with `release` and `cluster`), of plain searches that the champion
        answered. Results of another release would favour a candidate that resembles it: what only that one found would
        have gains. Where a search explored, what the champion had at these places would count as nothing, and explored
        results weighted by their inverse propensity cost more precision than they bring. Where it had a filter, the
        best of all documents were never shown, and whatever lifts those that were would gain.
        """
        answered = tallies.filter(pl.col("release") == self._sides[0].release.id, "plain")
        clusters = dict(answered.select("query", "cluster").unique().rows())
        counts = counted(answered)
        alive = {document_id: key for key, document_id in self._ids.items()}
        judged = judged_queries(judge(counts, clicks), corrected_gains(counts, clicks), clusters, alive)
        asked = [wordings[item.query] for item in judged]
        first, second = ((side.shadow, side.queries(asked)) for side in self._sides)
        return compare(judged, first, second, self._ids)

    def golden(self, golden: Golden) -> GoldenScores:
        first, second = (partial(self._find_ids, side) for side in self._sides)
        return score(golden, set(self._ids.values()), first, second)

    def guards(self, dials: Guards, queries: Collection[str], golden: GoldenScores | None) -> list[Guarded]:
        """`queries` are what people ask."""
        first, second = (partial(_find, side) for side in self._sides)
        champion, candidate = self._sides
        found = [
            retrieval("self-retrieval", titles(self._documents), first, second, dials.self_retrieval),
            retrieval("identifiers", identifiers(self._documents), first, second, dials.identifiers),
            collapse(champion.vectors, candidate.vectors, dials.collapse),
            latency(champion.encode, candidate.encode, queries, dials.latency),
        ]
        return found if golden is None else [*found, golden_guard(golden, dials.golden)]

    def _find_ids(self, side: Side, queries: Sequence[str]) -> list[list[str]]:
        return [[self._ids[key] for key in keys] for keys in _find(side, queries)]


def _find(side: Side, queries: Sequence[str]) -> list[list[int]]:
    """Keys of the best DEPTH documents of each query, best first."""
    found: list[list[int]] = side.shadow.query(side.queries(queries), DEPTH)[0].tolist()
    return found
