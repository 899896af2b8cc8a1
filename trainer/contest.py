"""Champion and candidate over one corpus, by the artefacts that serve, on the searches of a log."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from ..retriever.encoder import open_encoder
from ..retriever.releases import Releases
from ..retriever.shadow import ShadowIndex
from ..retriever.types import Release, Vectors
from .clicks import ClickModel, corrected_gains, count_people, judge
from .corpus import Corpus
from .evaluate import DEPTH, Result, compare, judged_queries
from .guards import Guarded, collapse, identifiers, retrieval, titles
from .recipe import Guards


@dataclass(frozen=True, slots=True)
class Side:
    """A release with its vectors of the corpus."""

    release: Release
    vectors: Vectors


class Contest:
    def __init__(self, corpus: Corpus, champion: Side, candidate: Side, releases: Releases) -> None:
        self._champion = champion.release.id
        self._documents = corpus.documents
        self._vectors = champion.vectors, candidate.vectors
        self._ids = {stored.key: stored.document.id for stored in corpus.documents}
        self._sides = [
            (
                ShadowIndex(corpus.keys, side.vectors),
                open_encoder(releases.folder(side.release.id), side.release),
                side.release.dimension,
            )
            for side in (champion, candidate)
        ]

    def results(self, log: pl.DataFrame, clicks: ClickModel, wordings: Mapping[str, str]) -> list[Result]:
        """Per-query results on the searches of this log that the champion answered. Results of another release would
        favour a candidate that resembles it: what only that one found would have gains.
        """
        answered = log.filter(pl.col("release") == self._champion)
        clusters = dict(answered.select("query", "cluster").unique().rows())
        counts = count_people(answered)
        alive = {document_id: key for key, document_id in self._ids.items()}
        judged = judged_queries(judge(counts, clicks), corrected_gains(counts, clicks), clusters, alive)
        asked = [wordings[item.query] for item in judged]
        first, second = (
            (shadow, query_vectors(encoder.query, asked, dimension)) for shadow, encoder, dimension in self._sides
        )
        return compare(judged, first, second, self._ids)

    def guards(self, dials: Guards) -> list[Guarded]:
        first, second = (self._finder(side) for side in range(2))
        return [
            retrieval("self-retrieval", titles(self._documents), first, second, dials.self_retrieval),
            retrieval("identifiers", identifiers(self._documents), first, second, dials.identifiers),
            collapse(*self._vectors, dials.collapse),
        ]

    def _finder(self, side: int) -> Callable[[Sequence[str]], list[list[int]]]:
        shadow, encoder, dimension = self._sides[side]

        def find(queries: Sequence[str]) -> list[list[int]]:
            vectors = query_vectors(encoder.query, queries, dimension)
            found: list[list[int]] = shadow.query(vectors, DEPTH)[0].tolist() if len(queries) else []
            return found

        return find


def query_vectors(encode: Callable[[str], Vectors], queries: Sequence[str], dimension: int) -> Vectors:
    """One row a query, encoded as they will be served: one by one."""
    if not queries:
        return np.zeros((0, dimension), dtype=np.float32)
    return np.stack([encode(query) for query in queries])
