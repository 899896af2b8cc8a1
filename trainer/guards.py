"""Guards: what a candidate may not make worse, whatever people's clicks say about the rest.

Each is a test of non-inferiority: the lower end of the 95 % interval of the mean change may not fall below −tolerance.
"""

import math
import re
import secrets
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..retriever.types import StoredDocument, Vectors
from .golden import GoldenScores
from .sample import INTERVAL_Z, Sample
from .split import draw

PROBES = 1000  # documents a guard asks for: fewer, and a model without any loss is refused by chance
PAIRS = 2000  # pairs of documents whose similarity tells a collapse
FEWEST = 30  # with fewer probes a guard says nothing
FEWEST_WORDS = 3  # of half a text that is asked for
TIMED = 60  # queries that are timed
LATENCY = "latency"
ROUNDS, MOST_ROUNDS = 3, 12  # of which a query's fastest counts
UNNOTICED_MS = 1.0  # a loss of time that nobody feels; on a busy machine it is noise
RANDOM_SEED = 0
Values = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Probe:
    """A query that has one right answer, the document of this key."""

    query: str
    key: int


@dataclass(frozen=True, slots=True)
class Guarded:
    """One guard's finding in units of its `measure`; `low` is the least change, candidate minus champion, that must be
    reckoned with, below 0 for a loss.
    """

    name: str
    measure: str
    n: int
    champion: float
    candidate: float
    low: float
    tolerance: float

    @property
    def holds(self) -> bool:
        return self.low >= -self.tolerance

    @property
    def silent(self) -> bool:
        return self.n < FEWEST

    def says(self) -> str:
        if self.silent:
            return f"guard {self.name} says nothing: {self.n} probes, at least {FEWEST} are needed"
        verb = "holds" if self.holds else "is broken"
        return (
            f"guard {self.name} {verb}: {self.measure} {self.champion:.3f} → {self.candidate:.3f} on {self.n}, a loss "
            f"of up to {max(-self.low, 0.0):.3f} must be reckoned with, allowed is {self.tolerance:.3g}"
        )

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "holds": self.holds, "silent": self.silent}


def titles(documents: Sequence[StoredDocument]) -> list[Probe]:
    """Titles, or first sentences where there is none, or the first half where there is only one, which must find their
    own document.
    """
    found = []
    for stored in _spread(documents):
        title, text = stored.document.title.strip(), stored.document.text.strip()
        query, left = (title, text) if title else _opening(text)
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
    return _guarded(name, "reciprocal rank", first, second, tolerance)


def collapse(champion: Vectors, candidate: Vectors, tolerance: float) -> Guarded:
    """Distance of random pairs of documents (1 − cosine): a model that finds everything alike has collapsed."""
    random = np.random.default_rng(RANDOM_SEED)
    pairs = random.integers(len(champion), size=(PAIRS, 2))
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    first, second = (
        1 - np.einsum("ij,ij->i", vectors[pairs[:, 0]], vectors[pairs[:, 1]]) for vectors in (champion, candidate)
    )
    return _guarded("collapse", "distance", first, second, tolerance)


def golden(scores: GoldenScores, tolerance: float) -> Guarded:
    """nDCG@10 by an admin's judgments."""
    return _guarded("golden", "nDCG@10", scores.champion, scores.candidate, tolerance)


def latency(
    champion: Callable[[str], object],
    candidate: Callable[[str], object],
    queries: Collection[str],
    tolerance: float,
    clock: Callable[[], float] = time.perf_counter,
) -> Guarded:
    """Milliseconds to encode a query; `tolerance` is a share of the champion's.

    Both sides take turns, so that whatever else the machine does slows both. A query's fastest round counts, and the
    median over all queries of candidate / champion, with its distribution-free interval. What seems too slow is timed
    for more rounds: on a busy machine it takes some until each query had a quiet moment on both sides.
    """
    asked = sorted(set(queries), key=draw)[:TIMED]
    n = len(asked)
    if n < FEWEST:
        return Guarded(LATENCY, "ms a query", n, 0.0, 0.0, 0.0, tolerance)
    fastest = np.full((2, n), np.inf)
    for number in range(MOST_ROUNDS + 1):
        new = secrets.token_hex(2)  # makes a query one that no cache of an encoder knows
        for i, query in enumerate(asked):
            for side in (0, 1) if (number + i) % 2 else (1, 0):
                took = _seconds((champion, candidate)[side], f"{query} {new}", clock)
                if number:  # the first warms up
                    fastest[side, i] = min(fastest[side, i], took)
        if number >= ROUNDS and _timed(fastest, tolerance).holds:
            break
    return _timed(fastest, tolerance)


def _timed(fastest: Values, tolerance: float) -> Guarded:
    """From the fastest seconds of champion and candidate for each query."""
    n = fastest.shape[1]
    ratios = np.sort(fastest[1] / fastest[0])
    highest = ratios[min(math.ceil(n / 2 + INTERVAL_Z * math.sqrt(n) / 2), n - 1)]
    before, after = (float(ms) for ms in np.median(fastest, axis=1) * 1000)
    allowed = max(tolerance * before, UNNOTICED_MS)
    return Guarded(LATENCY, "ms a query", n, before, after, before * float(1 - highest), allowed)


def broken(found: Sequence[Guarded]) -> list[str]:
    """What the broken ones say."""
    return [guard.says() for guard in found if not guard.holds]


def forgetful(found: Sequence[Guarded]) -> bool:
    """Whether guards are broken that a smaller step away from the champion may mend: no step makes a model faster."""
    names = {guard.name for guard in found if not guard.holds}
    return bool(names) and LATENCY not in names


def summed_up(found: Sequence[Guarded]) -> str:
    """Of guards of which none is broken."""
    return "; ".join([f"none of {len(found)} guards is broken", *(guard.says() for guard in found if guard.silent)])


def _opening(text: str) -> tuple[str, str]:
    """The first sentence of a text and the rest; of a single sentence the first half of its words and the rest."""
    first, *rest = re.split(r"(?<=[.!?])\s+|\n", text, maxsplit=1)
    if rest:
        return first, rest[0]
    words = first.split()
    half = len(words) // 2
    return (" ".join(words[:half]), " ".join(words[half:])) if half >= FEWEST_WORDS else ("", "")


def _guarded(name: str, measure: str, champion: Values, candidate: Values, tolerance: float) -> Guarded:
    change = Sample.of((candidate - champion).tolist())
    if change.n < FEWEST:
        return Guarded(name, measure, change.n, 0.0, 0.0, 0.0, tolerance)
    return Guarded(name, measure, change.n, float(champion.mean()), float(candidate.mean()), change.low, tolerance)


def _seconds(encode: Callable[[str], object], query: str, clock: Callable[[], float]) -> float:
    began = clock()
    encode(query)
    return clock() - began


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
