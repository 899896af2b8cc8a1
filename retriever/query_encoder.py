"""Encoding queries: those that come again are remembered, one that comes alone has all cores, and those that wait share
calls, one for each core.

A call that is spread over cores ends sooner and takes more of their time in all: two calls at once with a core each
encode 1.3 (fp32) to 1.8 (int8) times as many queries as one call after the other with two cores.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from .types import Vectors

REMEMBERED_BYTES = 32 << 20
OVERHEAD = 400  # bytes of a remembered query beside its text and its vector
MOST = 8  # queries that share a call
LIKE = 1.5  # the longest of them has at most so many times the tokens of the one that waited longest, and reversed

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Waiting(Generic[T]):
    """A query in the queue; `turn` is held until it is encoded or is the next to call the encoder."""

    item: T
    turn: threading.Lock = field(default_factory=threading.Lock)
    vector: Vectors | None = None
    error: BaseException | None = None


class QueryEncoder(Generic[T]):
    """A query that finds the encoder idle is encoded at once, with all cores. Whoever comes meanwhile gets a lane of
    its own as long as one is free, and waits when none is: the first of those who wait calls the encoder next, for
    itself and others of like length.
    """

    def __init__(
        self,
        prepare: Callable[[str], T],
        length: Callable[[T], int],
        run: Callable[[list[T]], Vectors],
        beside: Callable[[list[T]], Vectors] | None = None,
        lanes: int = 1,
        most: int = MOST,
        remembered: int = REMEMBERED_BYTES,
    ) -> None:
        """`run` and `beside` encode up to `most` prepared texts, one row each: `run` when nothing else is encoded,
        `beside` in up to `lanes` calls at once.
        """
        self._prepare, self._length, self._run, self._beside = prepare, length, run, beside or run
        self._lanes, self._most = lanes, most
        self._cache = _Cache(remembered)
        self._lock = threading.Lock()
        self._queue: list[_Waiting[T]] = []
        self._calls = 0

    def query(self, text: str) -> Vectors:
        """One vector that nobody can change."""
        vector = self._cache.get(text)
        if vector is None:
            vector = self._encoded(self._prepare(text))
            vector.flags.writeable = False
            self._cache.put(text, vector)
        return vector

    def _encoded(self, item: T) -> Vectors:
        mine = _Waiting(item)
        with self._lock:
            alone, waits = self._calls == 0, self._calls == self._lanes
            if waits:
                mine.turn.acquire()
                self._queue.append(mine)
            else:
                self._calls += 1
        if waits:
            mine.turn.acquire()  # until somebody releases it
        if mine.vector is None and mine.error is None:
            self._call(mine, self._run if alone else self._beside)
        if mine.error is not None:
            raise mine.error
        assert mine.vector is not None
        return mine.vector

    def _call(self, first: _Waiting[T], run: Callable[[list[T]], Vectors]) -> None:
        with self._lock:
            others = self._like(first)
        together = [first, *others]
        try:
            for one, vector in zip(together, run([one.item for one in together]), strict=True):
                one.vector = vector.copy()  # a row would keep all of them in memory
        except BaseException as error:
            for one in together:  # nobody may wait for ever
                one.error = error
        with self._lock:
            following = self._queue.pop(0) if self._queue else None
            if following is None:
                self._calls -= 1
        for one in (*others, *([] if following is None else [following])):
            one.turn.release()

    def _like(self, first: _Waiting[T]) -> list[_Waiting[T]]:
        """Takes from the queue who shares the call, those that waited longest first, and leaves other lanes theirs."""
        tokens = self._length(first.item)
        like = [one for one in self._queue if tokens / LIKE <= self._length(one.item) <= tokens * LIKE]
        chosen = like[: min(-(-len(like) // self._lanes), self._most - 1)]
        self._queue = [one for one in self._queue if one not in chosen]
        return chosen


class _Cache:
    """Vectors by text, the ones used last, bounded in bytes."""

    def __init__(self, most: int) -> None:
        self._vectors: OrderedDict[str, Vectors] = OrderedDict()
        self._most, self._bytes = most, 0
        self._lock = threading.Lock()

    def get(self, text: str) -> Vectors | None:
        with self._lock:
            if (vector := self._vectors.get(text)) is not None:
                self._vectors.move_to_end(text)
            return vector

    def put(self, text: str, vector: Vectors) -> None:
        with self._lock:
            if text not in self._vectors:
                self._vectors[text] = vector
                self._bytes += _size(text, vector)
            while self._bytes > self._most:
                self._bytes -= _size(*self._vectors.popitem(last=False))


def _size(text: str, vector: Vectors) -> int:
    """In bytes, at most: a character takes up to four."""
    return OVERHEAD + 4 * len(text) + vector.nbytes
