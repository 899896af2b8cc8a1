"""Which documents a filter leaves, by the engine that serves, so that filters mean the same when a model is judged."""

import logging
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import orjson
import polars as pl

from ..retriever.edge import EdgeStore
from ..retriever.errors import IndexFault, InvalidInput
from ..retriever.filters import parse_filter
from ..retriever.index import PayloadIndexes
from ..retriever.types import Keys
from .corpus import Corpus
from .snapshot import EVERYTHING

log = logging.getLogger(__name__)

CHECKS = 200_000_000  # documents times filters: some ten minutes
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
        self._left: dict[str, npt.NDArray[np.uint8]] = {}  # a bit a document

    def look_at(self, tallies: pl.DataFrame) -> None:
        """At those of the column `within`: all, as far as CHECKS allows, and of more those with the most views. What
        was not looked at leaves nothing.
        """
        most = CHECKS // max(len(self._corpus.keys), 1)
        views = tallies.filter(pl.col("within") != EVERYTHING).group_by("within").agg(pl.col("views").sum())
        found = views.sort("views", "within", descending=[True, False])["within"].to_list()
        if len(found) > most:
            log.warning("of %d filters the %d with the most searches are judged within", len(found), most)
        missing = [within for within in found[:most] if within not in self._left]
        if missing and len(self._corpus.keys):
            self._look(missing)

    def rows(self, within: str, keys: Keys) -> Rows:
        """Rows of those of the documents `keys`, a part of the corpus in ascending order, that the filter leaves."""
        if within == EVERYTHING:
            return np.arange(len(keys))
        if within not in self._left:
            return np.arange(0)
        left = np.unpackbits(self._left[within], count=len(self._corpus.keys)).astype(bool)
        return np.flatnonzero(left[np.searchsorted(self._corpus.keys, keys)])

    def _look(self, filters: Sequence[str]) -> None:
        keys, anything = self._corpus.keys, np.ones(1, dtype=np.float32)
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            index = EdgeStore(Path(folder), self._payload_indexes).create("payloads", 1)
            try:
                payloads = [stored.document.payload for stored in self._corpus.documents]
                index.upsert(keys.tolist(), np.ones((len(keys), 1), dtype=np.float32), payloads)
                for number, within in enumerate(filters, 1):
                    try:
                        found = index.query(anything, len(keys), parse_filter(orjson.loads(within)))
                    except (InvalidInput, IndexFault) as error:  # nor are searches with it answered any more
                        log.warning("what was found within a filter cannot judge: %s", error)
                        found = []
                    self._left[within] = np.packbits(np.isin(keys, [neighbour.key for neighbour in found]))
                    self._progress(number / len(filters))
            finally:
                index.close()
