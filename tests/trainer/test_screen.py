"""The screen ranks few documents, and those that matter."""

from pathlib import Path

import numpy as np
import orjson
import polars as pl

from clickloop.retriever.types import Document, Release, StoredDocument, Vectors
from clickloop.trainer.contest import Side
from clickloop.trainer.corpus import Corpus
from clickloop.trainer.screen import POOLED, SAMPLED, saving, screening_rows
from clickloop.trainer.within import Filters

COUNT, DIMENSION = 4000, 8
RELEASE = Release("r1", None, DIMENSION, "{text}", "", "", 32, "onnx", {}, {}, 1.0)
KEYS = np.arange(1, 2 * COUNT, 2)
DOCUMENTS = [Document(f"d{key}", payload={"third": row % 3}) for row, key in enumerate(KEYS)]
CORPUS = Corpus(
    9, [StoredDocument(int(key), 1, False, document) for key, document in zip(KEYS, DOCUMENTS, strict=True)], KEYS
)
WORDINGS = {"q": "Q"}
VECTORS: Vectors = np.random.default_rng(0).normal(size=(COUNT, DIMENSION)).astype(np.float32)


CHAMPION = Side(RELEASE, KEYS, VECTORS, lambda _text: np.eye(DIMENSION, dtype=np.float32)[0])


def seen(*ids: str, within: str = "") -> pl.DataFrame:
    return pl.DataFrame({"query": "q", "within": within, "document_id": ids, "views": 1})


def test_it_ranks_what_was_shown_the_champions_best_and_a_sample() -> None:
    log = seen("d7", "d99", "gone", "d7")
    rows = screening_rows(CORPUS, CHAMPION, log, WORDINGS, Filters(CORPUS), 0)
    assert list(rows) == sorted(set(rows))
    assert {3, 49} <= set(rows.tolist())
    assert set(np.argsort(-VECTORS[:, 0])[:POOLED].tolist()) <= set(rows.tolist())
    assert SAMPLED < len(rows) <= SAMPLED + POOLED + 2
    assert list(screening_rows(CORPUS, CHAMPION, log, WORDINGS, Filters(CORPUS), 0)) == list(rows)
    part = CORPUS.part(rows)
    assert [stored.key for stored in part.documents] == part.keys.tolist() == KEYS[rows].tolist()
    np.testing.assert_array_equal(CHAMPION.part(rows).vectors, VECTORS[rows])


def test_without_searches_it_ranks_the_sample_alone() -> None:
    assert len(screening_rows(CORPUS, CHAMPION, seen().clear(), WORDINGS, Filters(CORPUS), 0)) == SAMPLED


def test_it_ranks_the_champions_best_within_the_filter(tmp_path: Path) -> None:
    within = orjson.dumps({"third": 0}).decode()
    rows = screening_rows(CORPUS, CHAMPION, seen("d7", within=within), WORDINGS, Filters(CORPUS, tmp_path), 0)
    best = [row for row in np.argsort(-VECTORS[:, 0]) if row % 3 == 0]
    assert set(best[:POOLED]) <= set(rows.tolist())
    assert not list(tmp_path.iterdir())


def test_only_a_refusal_saves() -> None:
    assert saving(1000, 4000, 5.0, passed=True, ranks_all=True)["seconds_saved"] == 0
    asked = saving(1000, 4000, 5.0, passed=False, ranks_all=True)
    assert (asked["passed"], asked["embeddings_saved"]) == (False, 0)
    refused = saving(1000, 4000, 5.0, passed=False, ranks_all=False)
    assert (refused["embeddings_saved"], refused["seconds_saved"]) == (3000, 15.0)
