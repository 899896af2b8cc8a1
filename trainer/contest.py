"""Champion and candidate over one corpus, by the artefacts that serve, on the searches of a log."""

from collections import defaultdict
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
from .evaluate import DEPTH, Ranking, Result, compare, judged_queries
from .golden import Golden, GoldenScores, score
from .guards import Guarded, collapse, identifiers, latency, retrieval, titles
from .guards import golden as golden_guard
from .recipe import Guards
from .snapshot import EVERYTHING
from .tally import counted
from .within import Filters


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
    def __init__(self, corpus: Corpus, champion: Side, candidate: Side, filters: Filters | None = None) -> None:
        """`filters` are those of the whole corpus, of which `corpus` may be a part."""
        self._documents = corpus.documents
        self._keys = corpus.keys
        self._ids = {stored.key: stored.document.id for stored in corpus.documents}
        self._sides = champion, candidate
        self._filters = filters or Filters(corpus)

    def results(self, tallies: pl.DataFrame, clicks: ClickModel, wordings: Mapping[str, str]) -> list[Result]:
        """Results by these tallies (with `release` and `cluster`) for each query and each filter that it was asked
        within, of searches that judge and that the champion answered. Results of another release would favour a
        candidate that resembles it: what only that one found would have gains. Where a search explored, what the
        champion had at these places would count as nothing, and explored results weighted by their inverse propensity
        cost more precision than they bring. Lists drafted with a challenger judge: they show both to the same depth.
        """
        answered = tallies.filter(pl.col("release") == self._sides[0].release.id, pl.col("within").is_not_null())
        clusters = dict(answered.select("query", "cluster").unique().rows())
        judgments = judge(counted(answered), clicks)
        gains = corrected_gains(counted(answered, by=("within",)), clicks, by=("within",))
        self._filters.look_at(answered)
        judged = judged_queries(judgments, self._findable(gains), clusters)
        asked = [(wordings[item.query], item.within) for item in judged]
        first, second = (find(side, asked, DEPTH, self._filters) for side in self._sides)
        return compare(judged, self._named(first), self._named(second))

    def golden(self, golden: Golden) -> GoldenScores:
        first, second = (partial(self._find_ids, side) for side in self._sides)
        return score(golden, set(self._ids.values()), first, second)

    def guards(self, dials: Guards, queries: Collection[str], golden: GoldenScores | None) -> list[Guarded]:
        """`queries` are what people ask."""
        first, second = (partial(self._find, side) for side in self._sides)
        champion, candidate = self._sides
        found = [
            retrieval("self-retrieval", titles(self._documents), first, second, dials.self_retrieval),
            retrieval("identifiers", identifiers(self._documents), first, second, dials.identifiers),
            collapse(champion.vectors, candidate.vectors, dials.collapse),
            latency(champion.encode, candidate.encode, queries, dials.latency),
        ]
        return found if golden is None else [*found, golden_guard(golden, dials.golden)]

    def _find(self, side: Side, queries: Sequence[str]) -> list[list[int]]:
        return find(side, [(query, EVERYTHING) for query in queries], DEPTH, self._filters)

    def _find_ids(self, side: Side, queries: Sequence[str]) -> list[Ranking]:
        return self._named(self._find(side, queries))

    def _findable(self, gains: pl.DataFrame) -> pl.DataFrame:
        """Those of documents that can still be found within the filter."""
        ids = pl.Series(self._ids.values(), dtype=pl.String)
        findable = [gains.clear()]
        for (within,), group in gains.group_by("within", maintain_order=True):
            found = ids.gather(self._filters.rows(str(within), self._keys))
            findable.append(group.filter(pl.col("document_id").is_in(found.implode())))
        return pl.concat(findable)

    def _named(self, found: Sequence[Sequence[int]]) -> list[Ranking]:
        return [[self._ids[key] for key in keys] for keys in found]


def find(side: Side, asked: Sequence[tuple[str, str]], depth: int, filters: Filters) -> list[list[int]]:
    """Keys of the best `depth` documents for each text within a filter, best first."""
    if not asked:
        return []
    texts = list(dict.fromkeys(text for text, _ in asked))
    vectors = dict(zip(texts, side.queries(texts), strict=True))
    places = defaultdict[str, list[int]](list)
    for place, (_, within) in enumerate(asked):
        places[within].append(place)
    found: dict[int, list[int]] = {}
    for within, those in places.items():
        queries = np.stack([vectors[asked[place][0]] for place in those])
        found.update(zip(those, _find_within(side, queries, depth, within, filters), strict=True))
    return [found[place] for place in range(len(asked))]


def _find_within(side: Side, queries: Vectors, depth: int, within: str, filters: Filters) -> list[list[int]]:
    """The part, with its copies of vectors, lives no longer than this call."""
    part = side if within == EVERYTHING else side.part(filters.rows(within, side.keys))
    found: list[list[int]] = part.shadow.query(queries, depth)[0].tolist()
    return found
