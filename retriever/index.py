"""The seam to the vector engine: one index a build, one store that makes, opens and drops them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from .errors import IndexFault
from .filters import Filter
from .types import Keys, Payload, Vectors

# How far HNSW looks for neighbours when it builds its graph, and how far it searches. Queries in people's words lie
# apart from documents: with Qdrant's own 100 for both 98.8 % of the ten nearest are found, with these 99.7 %. Making an
# index takes twice as long, which is little beside encoding; a wider search of a poorer graph is paid by every query.
BUILT_WITH = 200
BREADTH = 128
PayloadIndexes = Mapping[str, str]  # payload field → keyword, integer, float, bool or datetime


@dataclass(frozen=True, slots=True)
class Neighbour:
    key: int
    score: float  # cosine


class Index(Protocol):
    """Vectors of length 1 by document key. Keys, payloads and filters mean the same in every adapter."""

    def upsert(self, keys: Sequence[int], vectors: Vectors, payloads: Sequence[Payload]) -> None: ...

    def delete(self, keys: Sequence[int]) -> None:
        """Keys that are not there are passed over."""
        ...

    def query(self, vector: Vectors, limit: int, filter: Filter | None = None) -> list[Neighbour]:
        """The nearest first, at most `limit`."""
        ...

    def vectors(self, keys: Sequence[int]) -> dict[int, Vectors]:
        """The stored vectors of those keys that are there."""
        ...

    def count(self) -> int:
        """Exactly how many vectors are stored."""
        ...

    def finish(self) -> None:
        """Builds what makes queries fast and returns when it is done: seconds to minutes, so never while serving."""
        ...

    def flush(self) -> None:
        """What was written survives a power cut."""
        ...

    def close(self) -> None: ...


class IndexStore(Protocol):
    """Where the indexes of builds live, by the build's id. `payload_indexes`: what every one has; `tends_itself`: the
    engine keeps them fast by itself; `exclusive`: nobody else keeps anything there.
    """

    payload_indexes: PayloadIndexes
    tends_itself: bool
    exclusive: bool

    def create(self, name: str, dimension: int) -> Index:
        """Replaces what an interrupted attempt left under this name. Raises NotReady while that is open."""
        ...

    def open(self, name: str) -> Index:
        """Raises IndexLost when there is none or it is damaged, and NotReady while it is open elsewhere."""
        ...

    def drop(self, name: str) -> None:
        """Idempotent."""
        ...

    def names(self) -> list[str]:
        """Raises Unreachable when the store is another machine's that does not answer."""
        ...

    def check_room(self, documents: int, dimension: int, like: str) -> None:
        """Raises NoRoom when the disk cannot take one more index of this size, or one of the size of `like`."""
        ...


def check_vectors(keys: Sequence[int] | Keys, vectors: Vectors) -> None:
    """Raises IndexFault for a vector that is not finite: an engine would store it and never rank it sensibly."""
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        bad = [int(keys[i]) for i in np.flatnonzero(~finite)[:5]]
        raise IndexFault(f"vectors of documents with keys {bad} are not finite; the encoder or its input is broken")


def check_query(vector: Vectors) -> None:
    if not np.isfinite(vector).all():
        raise IndexFault("the query vector is not finite; the encoder or its input is broken")
