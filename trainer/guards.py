"""Guards: what a candidate may not make worse, whatever people's clicks say about the rest.

Each is a test of non-inferiority: the lower end of the 95 % interval of the mean change may not fall below −tolerance.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..retriever.types import StoredDocument, Vectors
from .gate import Sample
from .split import draw

PROBES = 300  # documents a guard asks for
PAIRS = 2000  # pairs of documents whose similarity tells a collapse
FEWEST = 30  # with fewer probes a guard says nothing
RANDOM_SEED = 0
Values = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Probe:
    """A query that has one right answer, the document of this key."""

    query: str
    key: int


@dataclass(frozen=True, slots=True)
class Guarded:
    """One guard's finding; `change` is candidate minus champion, and `low` the least that must be reckoned with."""

    name: str
    n: int
    champion: float
    candidate: float
    low: float
    tolerance: float

    @property
    def holds(self) -> bool:
        return self.low >= -self.tolerance

    def says(self) -> str:
        verb = "holds" if self.holds else "is broken"
        return (
            f"guard {self.name} {verb}: {self.champion:.3f} → {self.candidate:.3f} on {self.n}, a loss of up to "
            f"{max(-self.low, 0.0):.3f} must be reckoned with, allowed is {self.tolerance:g}"
        )

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "holds": self.holds}


def titles(documents: Sequence[StoredDocument]) -> list[Probe]:
    """Titles, or first sentences where there is none, which must find their own document."""
    found = []
    for stored in _spread(documents):
        title, text = stored.document.title.strip(), stored.document.text.strip()
        first, *rest = re.split(r"(?<=[.!?])\s+|\n", text, maxsplit=1)
        query, left = (title, text) if title else (first, "".join(rest))
        if query and left.strip():
            found.append(Probe(query, stored.key))
    return _once(found)


def identifiers(documents: Sequence[StoredDocument]) -> list[Probe]:
    """Words with digits, capitals inside, dots or underscores that occur in one document only and must find it."""
    words = [_rare(stored) for stored in documents]
    counts = Counter(word for found in words for word in found)
    own = {
        stored.key: max(alone, key=len)
        for stored, found in zip(documents, words, strict=True)
        if (alone := sorted(word for word in found if counts[word] == 1))
    }
    return _once([Probe(own[stored.key], stored.key) for stored in _spread(documents) if stored.key in own])


def retrieval(
    name: str,
    probes: Sequence[Probe],
    champion: Callable[[Sequence[str]], Sequence[Sequence[int]]],
    candidate: Callable[[Sequence[str]], Sequence[Sequence[int]]],
    tolerance: float,
) -> Guarded:
    """Reciprocal ranks of the right documents; each side gives the keys it finds for queries, best first."""
    queries = [probe.query for probe in probes]
    first, second = (
        np.array([_reciprocal_rank(keys, probe.key) for keys, probe in zip(find(queries), probes, strict=True)])
        for find in (champion, candidate)
    )
    return _guarded(name, first, second, tolerance)


def collapse(champion: Vectors, candidate: Vectors, tolerance: float) -> Guarded:
    """Distance of random pairs of documents (1 − cosine): a model that finds everything alike has collapsed."""
    random = np.random.default_rng(RANDOM_SEED)
    pairs = random.integers(len(champion), size=(PAIRS, 2))
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    first, second = (
        1 - np.einsum("ij,ij->i", vectors[pairs[:, 0]], vectors[pairs[:, 1]]) for vectors in (champion, candidate)
    )
    return _guarded("collapse", first, second, tolerance)


def _guarded(name: str, champion: Values, candidate: Values, tolerance: float) -> Guarded:
    change = Sample.of((candidate - champion).tolist())
    if change.n < FEWEST:
        return Guarded(name, change.n, 0.0, 0.0, 0.0, tolerance)
    return Guarded(name, change.n, float(champion.mean()), float(candidate.mean()), change.low, tolerance)


def _reciprocal_rank(keys: Sequence[int], right: int) -> float:
    return next((1 / rank for rank, key in enumerate(keys, 1) if key == right), 0.0)


def _rare(stored: StoredDocument) -> set[str]:
    words = re.findall(r"\w+(?:[._-]\w+)*", f"{stored.document.title} {stored.document.text}")
    return {word for word in words if len(word) >= 4 and re.search(r"\d|[._]|[a-z][A-Z]", word)}


def _spread(documents: Sequence[StoredDocument]) -> list[StoredDocument]:
    """The same documents every night, as far as they still exist."""
    return sorted(documents, key=lambda stored: draw(stored.document.id))


def _once(probes: Sequence[Probe]) -> list[Probe]:
    """At most PROBES, and none whose query has several answers."""
    counts = Counter(probe.query for probe in probes)
    return [probe for probe in probes if counts[probe.query] == 1][:PROBES]
