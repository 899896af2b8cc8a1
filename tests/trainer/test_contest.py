"""Which searches judge a candidate."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from clickloop.retriever.explore import EXPLORATION
from clickloop.retriever.search import RANKER
from clickloop.retriever.types import Document, Release, StoredDocument, Vectors
from clickloop.trainer import within as module
from clickloop.trainer.click_models import FEATURES, GAPS, LEVELS, ClickModel, Prior
from clickloop.trainer.contest import Contest, Side
from clickloop.trainer.corpus import Corpus
from clickloop.trainer.snapshot import EVERYTHING
from clickloop.trainer.tally import tally
from clickloop.trainer.within import Filters

COUNT = 30
KEYS = np.arange(COUNT, dtype=np.int64)
LATE = '{"late": true}'  # leaves d20 to d29
CORPUS = Corpus(
    1, [StoredDocument(key, 1, False, Document(f"d{key}", payload={"late": key >= 20})) for key in range(COUNT)], KEYS
)
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
    number: int,
    clicked: str,
    explored: Mapping[int, str] = {},
    release: str = "champion",
    within: str = EVERYTHING,
    first: int = 0,
    person: str | None = None,
    query: str | None = None,
) -> pl.DataFrame:
    """The ten best of the champion, which begin with a document of this number; some places explored."""
    shown = [explored.get(rank, f"d{first + rank - 1}") for rank in range(1, 11)]
    return pl.DataFrame(
        {
            "search": number,
            "query": query or f"q{number}",
            "cluster": query or f"q{number}",
            "person": person or f"p{number}",
            "release": release,
            "document_id": shown,
            "rank": range(1, 11),
            "ranker": [EXPLORATION if rank in explored else RANKER for rank in range(1, 11)],
            "clicked": [id_ == clicked for id_ in shown],
            "within": within,
        }
    )


def judged(*searches: pl.DataFrame, first: int = 20, corpus: Corpus = CORPUS) -> dict[tuple[str, str], float]:
    """The estimated change of each query, within its filter, by a candidate that ranks from this document on."""
    log = tally(pl.concat(searches), by=("release", "cluster"))
    contest = Contest(corpus, ranks("champion", 0), ranks("candidate", first))
    results = contest.results(log, CLICKS, {query: query for query in log["query"].unique()})
    return {(found.query, found.within): found.delta for found in results}


def test_searches_that_explored_and_those_of_other_releases_do_not_judge() -> None:
    """Otherwise what the champion had at these places would count as nothing, in favour of every candidate."""
    plain = search(1, "d2")
    alone = judged(plain)
    assert alone["q1", EVERYTHING] < 0
    explored = search(2, "d20", {8: "d20", 9: "d25"})
    assert judged(plain, explored, search(3, "d2", release="before")) == pytest.approx(alone)


def test_within_a_filter_both_rank_what_it_leaves() -> None:
    """A candidate that lifts these documents above all others changes nothing there."""
    within = search(1, "d20", within=LATE, first=20)
    assert judged(within, first=20) == {("q1", LATE): 0}
    assert judged(within, first=25)["q1", LATE] < 0
    assert judged(search(1, "d25", within=LATE, first=20), first=25)["q1", LATE] > 0


def test_what_a_filter_no_longer_leaves_counts_as_nothing() -> None:
    within = search(1, "d22", within=LATE, first=15)
    hits = [f"d{number}" for number in range(20, 30)]
    (found,) = Contest(CORPUS, ranks("champion", 0), ranks("candidate", 0)).results(
        tally(within, by=("release", "cluster")), CLICKS, {"q1": "q1"}
    )
    assert found.champion_hits == hits
    assert found.champion["nDCG@10"] > 0
    assert judged(search(1, "d2", within=LATE)) == {}, "none of these"
    assert judged(search(1, "d2", within='{"late": "no"}')) == {}


@pytest.mark.parametrize("odd", ['{"late": {}}', '{"late": {"gte": "soon"}}', "[1]", "5", "not JSON"])
def test_a_filter_that_is_not_understood_keeps_no_other_from_judging(odd: str) -> None:
    broken, within = search(1, "d20", within=odd, first=20), search(2, "d20", within=LATE, first=20)
    assert judged(broken, within, first=25) == pytest.approx(judged(within, first=25))


def test_an_index_says_what_a_field_is(tmp_path: Path) -> None:
    """As where the product searches: by one for integers there is no 2.5."""
    documents = [Document(f"d{key}", payload={"size": key / 2, "also": "text"}) for key in range(COUNT)]
    stored = [StoredDocument(key, 1, False, document) for key, document in enumerate(documents)]
    within = '{"size":{"gt":2}}'
    for indexes, first in (({}, 5), ({"size": "integer"}, 6)):
        filters = Filters(Corpus(1, stored, KEYS), tmp_path, indexes)
        filters.look_at(tally(search(1, "d5", within=within), by=("release", "cluster")))
        assert filters.rows(within, KEYS)[0] == first
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("limit", ["CHECKS", "MOST"])
def test_of_too_many_filters_those_with_the_most_searches_judge(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, limit, COUNT if limit == "CHECKS" else 1)
    rare, common = '{"late": false}', LATE
    searches = [search(1, "d2", within=rare), *(search(n, "d20", within=common, first=20) for n in (2, 3))]
    assert {within for _, within in judged(*searches, search(4, "d2"))} == {common, EVERYTHING}


def test_a_part_of_the_documents_is_judged_within_filters_too() -> None:
    """As the screen does."""
    rows = np.array([1, 2, 20, 22, 25])
    part, filters = CORPUS.part(rows), Filters(CORPUS)
    log = tally(search(1, "d22", within=LATE, first=20), by=("release", "cluster"))
    sides = (ranks(name, 0).part(rows) for name in ("champion", "candidate"))
    (found,) = Contest(part, *sides, filters).results(log, CLICKS, {"q1": "q1"})
    assert found.champion_hits == ["d20", "d22", "d25"]


def test_one_person_judges_within_the_first_filter_they_asked_with() -> None:
    both = [search(1, "d20", within=LATE, first=20, person="ann", query="q"), search(2, "d2", person="ann", query="q")]
    assert set(judged(*both)) == {("q", LATE)}
    assert set(judged(*both, search(3, "d2", person="ben", query="q"))) == {("q", LATE), ("q", EVERYTHING)}
