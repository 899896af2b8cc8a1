"""The vocabulary that everything else passes around. Times are seconds since the epoch, UTC."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Payload = Mapping[str, Any]
Vectors = npt.NDArray[np.float32]  # one row per text, L2-normalised
Keys = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Document:
    """What an app stores. `id` is any text the app chose."""

    id: str
    title: str = ""
    text: str = ""
    payload: Payload = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """A document as stored: `key` is its point id; a deleted one is a tombstone with empty texts."""

    key: int
    revision: int
    deleted: bool
    document: Document


@dataclass(frozen=True, slots=True)
class Who:
    """Whom a search or an event belongs to, as far as the app tells."""

    application: str | None = None
    client_id: str | None = None
    session_id: str | None = None
    user_id: str | None = None
    attributes: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Hit:
    id: str
    rank: int  # from 1
    score: float  # cosine
    title: str
    text: str
    payload: Payload


@dataclass(frozen=True, slots=True)
class Shown:
    """How one result came to its rank: which ranker put it there, with what probability, and the cosine that the build
    of the search gave it, where it did.
    """

    rank: int
    document_id: str
    ranker: str
    propensity: float = 1.0
    score: float | None = None


@dataclass(frozen=True, slots=True)
class Search:
    """What was asked and shown once."""

    query_id: str
    query: str
    k: int
    filter: Mapping[str, Any] | None
    build_id: str
    release_id: str
    shown: Sequence[Shown]
    who: Who
    took_ms: float
    arrived_at: float


@dataclass(frozen=True, slots=True)
class Answer:
    """The hits of one search, best first; events name its `query_id`."""

    query_id: str
    release: str
    took_ms: float
    hits: Sequence[Hit]

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)

    def __len__(self) -> int:
        return len(self.hits)

    def __getitem__(self, position: int) -> Hit:
        return self.hits[position]


@dataclass(frozen=True, slots=True)
class Event:
    """What a person did with a document of a search. `client_time` is the app's clock, `arrived_at` ours."""

    event_id: str
    query_id: str
    action: str
    document_id: str
    rank: int | None
    who: Who
    client_time: float | None
    arrived_at: float


@dataclass(frozen=True, slots=True)
class Release:
    """Encoder artefacts with text template, prompts and dimension; immutable. Its folder is `releases/<id>`."""

    id: str
    parent: str | None
    dimension: int
    template: str
    query_prompt: str
    document_prompt: str
    max_tokens: int
    engine: str  # "onnx", "onnx-int8" with quantised queries, or "torch" where the export failed
    checksums: Mapping[str, str]  # file name → SHA-256
    lineage: Mapping[str, Any]
    created_at: float


@dataclass(frozen=True, slots=True)
class Build:
    """The index of one release, holding every document up to `revision`."""

    id: str
    release_id: str
    state: str  # building → ready → retired, or rejected: left to the owner for removal
    revision: int
    created_at: float
    optimized: int | None = None  # the revision up to which its index was optimised

    @property
    def unoptimized(self) -> int:
        """How many writes came since: each left a vector outside of what makes queries fast, or a dead one in it."""
        return self.revision - (self.optimized or 0)
