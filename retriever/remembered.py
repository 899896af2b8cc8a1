"""Documents that searches show again and again, in memory for as long as nobody writes them anew."""

import threading
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence

import orjson

from .types import Document

MOST_BYTES = 64 << 20
OVERHEAD = 700  # bytes of a document beside its texts


class Remembered:
    """Documents by key as they are at one revision; the ones that were shown last are kept."""

    def __init__(self, most: int = MOST_BYTES) -> None:
        self._revision = -1
        self._documents: OrderedDict[int, Document] = OrderedDict()
        self._most, self._bytes = most, 0
        self._lock = threading.Lock()

    def advance(self, revision: int, changed: Collection[int] | None) -> None:
        """Forgets what was written since; `changed` of None is everything."""
        with self._lock:
            if revision <= self._revision:
                return
            for key in list(self._documents) if changed is None else changed:
                self._drop(key)
            self._revision = revision

    def take(self, keys: Sequence[int]) -> tuple[int, dict[int, Document]]:
        """The revision, and those of the keys that are remembered, as they are at it."""
        found = {}
        with self._lock:
            for key in keys:
                if (document := self._documents.get(key)) is not None:
                    found[key] = document
                    self._documents.move_to_end(key)
            return self._revision, found

    def learn(self, revision: int, documents: Mapping[int, Document]) -> None:
        """Documents as they are at this revision; passed over when there is a newer one."""
        with self._lock:
            if revision != self._revision:
                return
            for key, document in documents.items():
                if key not in self._documents:
                    self._documents[key] = document
                    self._bytes += size(document)
            while self._bytes > self._most:
                self._drop(next(iter(self._documents)))

    def _drop(self, key: int) -> None:
        document = self._documents.pop(key, None)
        if document is not None:
            self._bytes -= size(document)


def size(document: Document) -> int:
    """In bytes, about: texts beyond ASCII take up to four a character."""
    return OVERHEAD + 2 * (len(document.title) + len(document.text)) + 4 * len(orjson.dumps(dict(document.payload)))
