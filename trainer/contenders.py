"""Models of known quality, to see what the gate makes of each: checkpoints, blends, and deliberately worse ones."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..retriever.encoder import has_bfloat16, load_model
from ..retriever.serving import unit
from ..retriever.types import Vectors
from .finetune import Course, finetune
from .mine import Triplet
from .recipe import FineTuning

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

TAUGHT = (300, 1000, 2000)  # true pairs
MISTAUGHT = (300, 1000)  # pairs of a query with any document
BLENDS = (0.1, 0.25, 0.5, 0.75)  # share of the best of the taught in the cosine
WORSE_BLENDS = (0.25, 0.5)
FORGOTTEN = (0.15, 0.25, 0.3)  # share of the documents that the best of the taught does not find any more
WEIGHT_NOISE = (0.05, 0.1, 0.2, 0.3)  # standard deviations of each weight matrix
VECTOR_NOISE = (0.3, 0.6)  # length of what is added to vectors of length 1
CUTS = (2 / 3, 1 / 3, 1 / 6)  # share of the dimensions that is left
MAX_TOKENS = 96  # of a text are read
RECIPE = FineTuning(epochs=1, soup=1, batch_size=32, learning_rate=1e-4, max_tokens=48)


@dataclass(frozen=True, slots=True)
class Contender:
    """A model, as its vectors of all documents and all queries (rows of length 1)."""

    name: str
    documents: Vectors
    queries: Vectors


def contenders(
    model: str,
    documents: Sequence[str],
    queries: Sequence[str],
    pairs: Sequence[tuple[int, int]],
    say: Callable[[str], None],
) -> Iterator[Contender]:
    """The model itself first, then what becomes of it. `pairs` are (query, document) of those that may teach."""
    random = np.random.default_rng(0)
    shuffled = random.permutation(len(pairs))

    def encoded(name: str, changed: "SentenceTransformer") -> Contender:
        say(f"encoding: {name}")
        return Contender(name, encode(changed, documents, MAX_TOKENS), encode(changed, queries, MAX_TOKENS))

    base = encoded("as it is", load_model(model))
    yield base
    for kind, counts, shares in (("true", TAUGHT, BLENDS), ("wrong", MISTAUGHT, WORSE_BLENDS)):
        for count in counts:
            chosen = [pairs[i] for i in shuffled[:count]]
            if kind == "wrong":
                chosen = [(query, int(random.integers(len(documents)))) for query, _ in chosen]
            name = f"{len(chosen)} {kind} pairs"
            say(f"teaching {name}")
            taught = encoded(f"taught {name}", _taught(model, documents, queries, chosen, random))
            yield taught
        for share in shares:
            yield _blend(f"{share:.0%} of what {name} taught", base, taught, share)
        for share in FORGOTTEN if kind == "true" else ():
            yield _forgetful(f"taught {name}, {share:.0%} of the documents forgotten", taught, share)
    for size in WEIGHT_NOISE:
        yield encoded(f"weights with {size:.0%} noise", _shaken(model, size))
    for size in VECTOR_NOISE:
        yield Contender(f"vectors with noise {size:g}", _noisy(base.documents, size, random), base.queries)
    for share in CUTS:
        left = round(base.documents.shape[1] * share)
        yield Contender(f"first {left} dimensions", unit(base.documents[:, :left]), unit(base.queries[:, :left]))


def encode(model: "SentenceTransformer", texts: Sequence[str], max_tokens: int) -> Vectors:
    """One row of length 1 a text."""
    import torch

    model.max_seq_length = min(max_tokens, int(model.max_seq_length or max_tokens))
    with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=has_bfloat16()):
        vectors = model.encode(list(texts), prompt="", batch_size=16, show_progress_bar=False)
    return unit(np.asarray(vectors, dtype=np.float32))


def _taught(
    model: str,
    documents: Sequence[str],
    queries: Sequence[str],
    pairs: Sequence[tuple[int, int]],
    random: np.random.Generator,
) -> "SentenceTransformer":
    lessons = [Triplet(queries[q], documents[d], documents[int(random.integers(len(documents)))]) for q, d in pairs]
    with tempfile.TemporaryDirectory() as work:
        course = Course(Path(model), lessons, [], RECIPE, {})
        tuned, _ = finetune(course, Path(work), seed=0, progress=lambda _share: None)
    return tuned


def _shaken(model: str, size: float) -> "SentenceTransformer":
    import torch

    shaken = load_model(model)
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weights in shaken.parameters():
            if weights.dim() > 1:
                weights.add_(torch.randn(weights.shape, generator=random), alpha=size * float(weights.std()))
    return shaken


def _blend(name: str, first: Contender, second: Contender, share: float) -> Contender:
    """Cosines are the mean of both, `second` having this share."""

    def joined(one: Vectors, other: Vectors) -> Vectors:
        both: Vectors = np.hstack([np.sqrt(1 - share) * one, np.sqrt(share) * other]).astype(np.float32)
        return both

    return Contender(name, joined(first.documents, second.documents), joined(first.queries, second.queries))


def _forgetful(name: str, taught: Contender, share: float) -> Contender:
    random = np.random.default_rng(0)
    forgotten = random.random(len(taught.documents)) < share
    nonsense = unit(random.normal(size=taught.documents.shape).astype(np.float32))
    return Contender(name, np.where(forgotten[:, None], nonsense, taught.documents), taught.queries)


def _noisy(vectors: Vectors, size: float, random: np.random.Generator) -> Vectors:
    noise = random.normal(size=vectors.shape).astype(np.float32)
    return unit(vectors + size * unit(noise))
