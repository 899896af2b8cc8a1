"""Which searches judge a candidate."""

import numpy as np
import polars as pl
import pytest

from clickloop.retriever.explore import EXPLORATION
from clickloop.retriever.search import RANKER
from clickloop.retriever.types import Document, Release, StoredDocument, Vectors
from clickloop.trainer.click_models import FEATURES, GAPS, LEVELS, ClickModel, Prior
from clickloop.trainer.contest import Contest, Side
from clickloop.trainer.corpus import Corpus
from clickloop.trainer.tally import tally

COUNT = 30
KEYS = np.arange(COUNT, dtype=np.int64)
CORPUS = Corpus(1, [StoredDocument(key, 1, False, Document(f"d{key}")) for key in range(COUNT)], KEYS)
LOOKS = np.repeat(1 / np.arange(1, 11)[:, None], GAPS, axis=1)
NOBODY = pl.DataFrame(schema={"document_id": pl.String, "queries": pl.UInt32})
PRIOR = Prior(np.full(10, np.log(1 / 9)), np.zeros(FEATURES), np.zeros(FEATURES), NOBODY)
CLICKS = ClickModel("position", 0.8 * LOOKS, 0.1 * LOOKS, np.zeros(LEVELS), PRIOR)


def ranks(name: str, first: int) -> Side:
    """A model that ranks the documents in their order from this one on, for every query."""
    turn = np.linspace(0, np.pi / 2, COUNT, dtype=np.float32)
    vectors: Vectors = np.stack([np.cos(turn), np.sin(turn)], axis=1)[(KEYS - first) % COUNT]
    release = Release(name, None, 2, "{text}", "", "", 32, "onnx", {}, {}, 1.0)
    return Side(release, KEYS, vectors, lambda _text: np.array([1, 0], dtype=np.float32))


def search(
    number: int, clicked: str, explored: dict[int, str], release: str = "champion", filtered: bool = False
) -> pl.DataFrame:
    """The ten best of the champion, some places explored, or with others that a filter leaves."""
    shown = [explored.get(rank, f"d{rank - 1}") for rank in range(1, 11)]
    return pl.DataFrame(
        {
            "search": number,
            "query": f"q{number}",
            "cluster": f"q{number}",
            "person": f"p{number}",
            "release": release,
            "document_id": shown,
            "rank": range(1, 11),
            "ranker": [EXPLORATION if rank in explored and not filtered else RANKER for rank in range(1, 11)],
            "clicked": [id_ == clicked for id_ in shown],
            "filtered": filtered,
        }
    )


def judged(*searches: pl.DataFrame) -> dict[str, float]:
    """The estimated change of each query by a candidate that finds d20 to d29."""
    log = tally(pl.concat(searches), by=("release", "cluster"))
    contest = Contest(CORPUS, ranks("champion", 0), ranks("candidate", 20))
    return {found.query: found.delta for found in contest.results(log, CLICKS, {q: q for q in log["query"].unique()})}


def test_searches_that_explored_or_had_a_filter_and_those_of_other_releases_do_not_judge() -> None:
    """Otherwise what the champion had at these places would count as nothing, in favour of every candidate."""
    plain = search(1, "d2", {})
    alone = judged(plain)
    assert alone["q1"] < 0
    assert judged(plain, search(2, "d20", {8: "d20", 9: "d25"}), search(3, "d2", {}, "before")) == pytest.approx(alone)
    within = {rank: f"d{19 + rank}" for rank in range(1, 11)}
    assert judged(plain, search(4, "d20", within, filtered=True)) == pytest.approx(alone)
