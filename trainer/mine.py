"""From judgments to training data: positives that people liked, hard negatives that the champion confuses with them."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO
from random import Random
from typing import Any

import numpy as np
import polars as pl

from ..retriever.types import Vectors

TEXTS = ("query", "positive", "negative")  # of a triplet, and so the columns of what is trained on
LEAST_WEIGHT = 0.02
SCORES = 1 << 26  # of queries and documents held at a time: 256 MiB
MOST_PASSED = 20  # clicked documents among a query's hardest negatives; each of them costs memory for every pair


@dataclass(frozen=True, slots=True)
class Pair:
    """A query and a document that answers it, with the posterior relevance; `confirmed`: clicked, for the first time or
    again, in answers of the present model.
    """

    query: str
    document_id: str
    relevance: float
    confirmed: bool = False

    @property
    def weight(self) -> float:
        """2p - 1: beside others what is as likely wrong as right hardly counts. Never quite 0: a batch needs some."""
        return max(2 * self.relevance - 1, LEAST_WEIGHT)


@dataclass(frozen=True, slots=True)
class Triplet:
    """`weight`: of its loss beside those of others."""

    query: str
    positive: str
    negative: str
    weight: float = 1.0


def positives(judgments: pl.DataFrame, min_relevance: float) -> list[Pair]:
    """Clicked pairs of at least this posterior relevance, in a fixed order."""
    chosen = judgments.filter((pl.col("clicks") > 0) & (pl.col("relevance") >= min_relevance))
    rows = chosen.sort("query", "document_id").select("query", "document_id", "relevance").rows()
    return [Pair(*row) for row in rows]


def drawn(pairs: Sequence[Pair], most: int, seed: str) -> list[Pair]:
    """All pairs, or as many as may be trained on: the confirmed first, the others by chance."""
    if len(pairs) <= most:
        return list(pairs)
    shuffled = Random(seed).sample(pairs, len(pairs))
    return sorted(shuffled, key=lambda pair: not pair.confirmed)[:most]


def triplets(
    pairs: Sequence[Pair],
    clicked: Mapping[str, set[str]],
    texts: Mapping[str, str],
    champion: "StoredVectors",
    *,
    relative_margin: float,
    seed: int,
) -> list[Triplet]:
    """A hard negative for each pair: scored by the champion at least `relative_margin` below the positive, and never
    clicked for the query. Where there is none in the whole corpus, the pair gets a random document of those that score
    above the positive: the champion is plainly wrong about it. Pairs without that are left out, and those of documents
    without a text.
    """
    from datasets import Dataset
    from sentence_transformers.util import mine_hard_negatives

    kept = [pair for pair in pairs if pair.document_id in texts]
    if not kept:
        return []
    forbidden = {
        query: {texts[id_] for id_ in clicked.get(query, ()) if id_ in texts} for query in {pair.query for pair in kept}
    }
    dataset = Dataset.from_dict(
        {"query": [pair.query for pair in kept], "positive": [texts[pair.document_id] for pair in kept]}
    )
    with redirect_stderr(StringIO()):  # its progress bar cannot be turned off
        mined = mine_hard_negatives(
            dataset,
            champion,  # type: ignore[arg-type]
            anchor_column_name="query",
            positive_column_name="positive",
            corpus=list(texts.values()),
            relative_margin=relative_margin,
            # Enough that one is left after those that somebody clicked: these are no positives, nor negatives.
            num_negatives=1 + min(max(len(found) for found in forbidden.values()), MOST_PASSED),
            sampling_strategy="top",
            output_format="triplet",
            use_faiss=False,
            faiss_batch_size=_at_once(len(texts)),
            verbose=False,
        )
    negatives: dict[tuple[str, str], str] = {}
    for row in mined:  # the hardest of a pair come first
        if row["negative"] not in forbidden[row["query"]]:
            negatives.setdefault((row["query"], row["positive"]), row["negative"])
    # It looks at some of each query's best documents only, which may all be within the margin.
    keys = [(pair.query, texts[pair.document_id]) for pair in kept]
    missed = sorted(set(keys) - negatives.keys())
    negatives |= _searched(missed, forbidden, champion, relative_margin, np.random.default_rng(seed))
    chosen = zip(keys, kept, strict=True)
    return [Triplet(*key, negatives[key], pair.weight) for key, pair in chosen if key in negatives]


def _searched(
    missed: Sequence[tuple[str, str]],
    forbidden: Mapping[str, Collection[str]],
    champion: "StoredVectors",
    relative_margin: float,
    random: np.random.Generator,
) -> dict[tuple[str, str], str]:
    """The negatives of these queries and positives by exact search over all documents."""
    found = {}
    for (query, positive), scores in zip(missed, champion.scores([query for query, _ in missed]), strict=True):
        own = scores[champion.rows([positive])[0]]
        scores[champion.rows([positive, *forbidden[query]])] = np.nan
        below = np.flatnonzero(scores <= own - abs(own) * relative_margin)
        above = np.flatnonzero(scores > own)
        if len(below):
            found[query, positive] = champion.texts[below[scores[below].argmax()]]
        elif len(above):
            found[query, positive] = champion.texts[random.choice(above)]
    return found


def _at_once(documents: int) -> int:
    """How many queries are compared with so many documents at a time."""
    return max(SCORES // documents, 1)


class StoredVectors:
    """Looks like a model to `mine_hard_negatives`, and answers with vectors that are already there."""

    device = "cpu"

    def __init__(self, texts: Sequence[str], vectors: Vectors, queries: Mapping[str, Vectors]) -> None:
        self.texts = texts
        self._row = {text: row for row, text in enumerate(texts)}
        self._vectors = vectors
        self._queries = queries

    def rows(self, texts: Sequence[str]) -> list[int]:
        return [self._row[text] for text in texts]

    def scores(self, queries: Sequence[str]) -> Iterator[Vectors]:
        """The cosines of each query with all texts; of a text that comes twice once, and otherwise NaN."""
        copies = np.setdiff1d(np.arange(len(self.texts)), list(self._row.values()))
        size = _at_once(len(self.texts))
        for start in range(0, len(queries), size):
            scores = self.encode_query(queries[start : start + size]) @ self._vectors.T
            scores[:, copies] = np.nan
            yield from scores

    def encode_document(self, texts: Sequence[str], **_options: object) -> Vectors:
        return self._vectors[self.rows(texts)]

    def encode_query(self, texts: Sequence[str], **_options: object) -> Vectors:
        return np.stack([self._queries[text] for text in texts])

    def similarity(self, queries: Any, documents: Any) -> Any:
        import torch

        return torch.as_tensor(queries) @ torch.as_tensor(documents).T

    def similarity_pairwise(self, queries: Any, documents: Any) -> Any:
        import torch

        return (torch.as_tensor(queries) * torch.as_tensor(documents)).sum(-1)
