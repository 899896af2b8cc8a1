"""Which documents a filter leaves, by the engine that serves, so that filters mean the same when a model is judged."""

import logging
import re
import tempfile
from collections.abc import Callable, Mapping, Set
from pathlib import Path

import numpy as np
import numpy.typing as npt
import orjson
import polars as pl

from ..retriever.edge import EdgeStore
from ..retriever.errors import IndexFault, InvalidInput
from ..retriever.filters import Filter, parse_filter
from ..retriever.index import Index, PayloadIndexes
from ..retriever.types import Keys
from .corpus import Corpus
from .snapshot import EVERYTHING
from .split import number

log = logging.getLogger(__name__)

MOST = 2_000  # filters that are looked at together
CHECKS = 200_000_000  # documents times filters: some ten minutes without payload indexes
WRITTEN = 5_000  # documents
Rows = npt.NDArray[np.int64]


class Filters:
    """Which documents of a corpus the filters of a log leave."""

    def __init__(
        self,
        corpus: Corpus,
        folder: Path | None = None,
        payload_indexes: PayloadIndexes | None = None,
        progress: Callable[[float], None] = lambda _share: None,
    ) -> None:
        """The documents' payloads lie below `folder` while they are looked at. By `payload_indexes` the engine takes
        what is in a field for what its index says.
        """
        self._corpus = corpus
        self._folder = folder
        self._payload_indexes = payload_indexes or {}
        self._progress = progress
        self._bits: dict[str, npt.NDArray[np.uint8]] = {}  # a bit a document

    def look_at(self, tallies: pl.DataFrame) -> None:
        """At those of the column `within`, as far as MOST and CHECKS allow: those that most people searched with. What
        was not looked at leaves nothing.
        """
        filtered = tallies.filter(pl.col("within") != EVERYTHING)
        views = filtered.group_by("within", "query", "document_id").agg(pl.col("views").sum())
        askers = views.group_by("within", "query").agg(pl.col("views").max())
        found = dict(askers.group_by("within").agg(pl.col("views").sum()).rows())
        chosen = sorted(found, key=lambda within: (-found[within], number(within)))
        chosen = chosen[: min(MOST, CHECKS // max(len(self._corpus.keys), 1))]
        if len(chosen) < len(found):
            log.warning("of %d filters only the %d with the most searches judge", len(found), len(chosen))
        if missing := {within: _parsed(within) for within in chosen if within not in self._bits}:
            self._look(missing)

    def rows(self, within: str, keys: Keys) -> Rows:
        """Rows of those of the documents `keys`, a part of the corpus in ascending order, that the filter leaves."""
        if within == EVERYTHING:
            return np.arange(len(keys))
        if within not in self._bits:
            return np.arange(0)
        left = np.unpackbits(self._bits[within], count=len(self._corpus.keys)).astype(bool)
        return np.flatnonzero(left[np.searchsorted(self._corpus.keys, keys)])

    def _look(self, filters: Mapping[str, Filter | None]) -> None:
        keys, anything = self._corpus.keys, np.ones(1, dtype=np.float32)
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            index = EdgeStore(Path(folder), self._payload_indexes).create("payloads", 1)
            try:
                fields = {field for filter in filters.values() for field in _fields(filter)}
                self._store(index, fields)
                for looked, (within, filter) in enumerate(filters.items(), 1):
                    try:
                        found = [] if filter is None else index.query(anything, max(len(keys), 1), filter)
                    except (InvalidInput, IndexFault) as error:  # nor are searches with it answered any more
                        log.warning("nothing judges within a filter: %s", error)
                        found = []
                    self._bits[within] = np.packbits(np.isin(keys, [neighbour.key for neighbour in found]))
                    self._progress(looked / len(filters))
            finally:
                index.close()

    def _store(self, index: Index, fields: Set[str]) -> None:
        """The documents with these fields of their payloads."""
        keys, stored = self._corpus.keys.tolist(), self._corpus.documents
        for start in range(0, len(keys), WRITTEN):
            part = [document.document.payload for document in stored[start : start + WRITTEN]]
            payloads = [{name: payload[name] for name in fields & payload.keys()} for payload in part]
            index.upsert(keys[start : start + WRITTEN], np.ones((len(part), 1), dtype=np.float32), payloads)


def _parsed(within: str) -> Filter | None:
    try:
        return parse_filter(orjson.loads(within))
    except (ValueError, InvalidInput) as error:  # an earlier version took it
        log.warning("nothing judges within a filter: %s", error)
        return None


def _fields(filter: Filter | None) -> set[str]:
    """The fields of a payload that it asks for."""
    conditions = () if filter is None else (*filter.must, *filter.should, *filter.must_not)
    return {re.split(r"[.\[]", condition.key)[0] for condition in conditions}
