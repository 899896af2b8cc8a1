"""The screen: a candidate without a gain on the development split seldom pays for the whole corpus."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from ..retriever.types import Keys
from .contest import Side, find
from .corpus import Corpus
from .evaluate import DEPTH
from .within import Filters

POOLED = 50  # documents that the champion finds best for a query of the development split
SAMPLED = 1000  # others, so that a candidate that ranks anything high is seen through


def screening_rows(
    corpus: Corpus, champion: Side, seen: pl.DataFrame, wordings: Mapping[str, str], filters: Filters, seed: int
) -> Keys:
    """Rows of the documents that the screen ranks, ascending: all that was seen, the champion's best for each query
    within its filter, and a random sample. What only the candidate finds elsewhere has no gains anyway.
    """
    rows = {stored.document.id: row for row, stored in enumerate(corpus.documents)}
    shown = [rows[id_] for id_ in seen["document_id"].unique().to_list() if id_ in rows]
    filters.look_at(seen)
    asked = seen.select("query", "within").unique().sort("query", "within").rows()
    depth = max(POOLED * seen["query"].n_unique() // max(len(asked), 1), DEPTH)  # many filters would pool everything
    found = find(champion, [(wordings[query], within) for query, within in asked], depth, filters)
    pooled = np.searchsorted(corpus.keys, sorted({key for keys in found for key in keys})).tolist()
    sampled = np.random.default_rng(seed).permutation(len(rows))[:SAMPLED].tolist()
    return np.array(sorted({*shown, *pooled, *sampled}), dtype=np.int64)


def saving(ranked: int, documents: int, seconds: float, *, passed: bool, ranks_all: bool) -> dict[str, Any]:
    """For the report: embedding the `ranked` documents took so long; what a candidate saved that will not rank all of
    them, at the same speed.
    """
    others = 0 if ranks_all else documents - ranked
    return {
        "passed": passed,
        "documents_ranked": ranked,
        "documents": documents,
        "embeddings_saved": others,
        "seconds_saved": round(seconds * others / max(ranked, 1), 1),
    }
