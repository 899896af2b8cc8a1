"""The screen ranks few documents, and those that matter."""

import numpy as np
import polars as pl

from clickloop.retriever.types import Document, Release, StoredDocument, Vectors
from clickloop.trainer.contest import Side
from clickloop.trainer.corpus import Corpus
from clickloop.trainer.screen import POOLED, SAMPLED, saving, screening_rows

COUNT, DIMENSION = 4000, 8
RELEASE = Release("r1", None, DIMENSION, "{text}", "", "", 32, "onnx", {}, {}, 1.0)
KEYS = np.arange(1, 2 * COUNT, 2)
CORPUS = Corpus(9, [StoredDocument(int(key), 1, False, Document(f"d{key}")) for key in KEYS], KEYS)
VECTORS: Vectors = np.random.default_rng(0).normal(size=(COUNT, DIMENSION)).astype(np.float32)


CHAMPION = Side(RELEASE, KEYS, VECTORS, lambda _text: np.eye(DIMENSION, dtype=np.float32)[0])


def test_it_ranks_what_was_shown_the_champions_best_and_a_sample() -> None:
    log = pl.DataFrame({"document_id": ["d7", "d99", "gone", "d7"]})
    rows = screening_rows(CORPUS, CHAMPION, log, ["q"], 0)
    assert list(rows) == sorted(set(rows))
    assert {3, 49} <= set(rows.tolist())
    assert set(np.argsort(-VECTORS[:, 0])[:POOLED].tolist()) <= set(rows.tolist())
    assert SAMPLED < len(rows) <= SAMPLED + POOLED + 2
    assert list(screening_rows(CORPUS, CHAMPION, log, ["q"], 0)) == list(rows)
    part = CORPUS.part(rows)
    assert [stored.key for stored in part.documents] == part.keys.tolist() == KEYS[rows].tolist()
    np.testing.assert_array_equal(CHAMPION.part(rows).vectors, VECTORS[rows])


def test_without_searches_it_ranks_the_sample_alone() -> None:
    empty = pl.DataFrame({"document_id": []}, schema={"document_id": pl.String})
    assert len(screening_rows(CORPUS, CHAMPION, empty, [], 0)) == SAMPLED


def test_only_a_refusal_saves() -> None:
    assert saving(1000, 4000, 5.0, passed=True, ranks_all=True)["seconds_saved"] == 0
    asked = saving(1000, 4000, 5.0, passed=False, ranks_all=True)
    assert (asked["passed"], asked["embeddings_saved"]) == (False, 0)
    refused = saving(1000, 4000, 5.0, passed=False, ranks_all=False)
    assert (refused["embeddings_saved"], refused["seconds_saved"]) == (3000, 15.0)
