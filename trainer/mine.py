"""From judgments to training data: positives that people liked, hard negatives that the champion confuses with them."""

from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO
from random import Random
from typing import Any

import numpy as np
import polars as pl

from ..retriever.types import Vectors

LEAST_WEIGHT = 0.02
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
    clicked for the query. A pair that has none gets a random document. Pairs of documents without a text are left out.
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
            verbose=False,
        )
    negatives: dict[tuple[str, str], str] = {}
    for row in mined:  # the hardest of a pair come first
        if row["negative"] not in forbidden[row["query"]]:
            negatives.setdefault((row["query"], row["positive"]), row["negative"])
    random = np.random.default_rng(seed)
    pool = sorted(set(texts.values()))
    result = []
    for pair in kept:
        positive = texts[pair.document_id]
        negative = negatives.get((pair.query, positive))
        if negative is None:
            out = forbidden[pair.query] | {positive}
            some = random.choice(len(pool), size=min(len(pool), len(out) + 1), replace=False)
            negative = next((pool[i] for i in some if pool[i] not in out), None)
        if negative is not None:
            result.append(Triplet(pair.query, positive, negative, pair.weight))
    return result


class StoredVectors:
    """Looks like a model to `mine_hard_negatives`, and answers with vectors that are already there."""

    device = "cpu"

    def __init__(self, texts: Sequence[str], vectors: Vectors, queries: Mapping[str, Vectors]) -> None:
        self._row = {text: row for row, text in enumerate(texts)}
        self._vectors = vectors
        self._queries = queries

    def encode_document(self, texts: Sequence[str], **_options: object) -> Vectors:
        return self._vectors[[self._row[text] for text in texts]]

    def encode_query(self, texts: Sequence[str], **_options: object) -> Vectors:
        return np.stack([self._queries[text] for text in texts])

    def similarity(self, queries: Any, documents: Any) -> Any:
        import torch

        return torch.as_tensor(queries) @ torch.as_tensor(documents).T

    def similarity_pairwise(self, queries: Any, documents: Any) -> Any:
        import torch

        return (torch.as_tensor(queries) * torch.as_tensor(documents)).sum(-1)
