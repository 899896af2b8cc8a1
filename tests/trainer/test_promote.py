"""A new index goes live only when it holds exactly what was judged."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clickloop.retriever.database import Database
from clickloop.retriever.edge import EdgeStore
from clickloop.retriever.errors import IndexFault
from clickloop.retriever.filters import parse_filter
from clickloop.retriever.index import Index
from clickloop.retriever.pointer import finish_switch
from clickloop.retriever.releases import Releases
from clickloop.retriever.schema import live
from clickloop.retriever.types import Document, Release, StoredDocument, Vectors
from clickloop.trainer import promote
from clickloop.trainer.contest import Side
from clickloop.trainer.corpus import Corpus
from clickloop.trainer.promote import Promoter, build_index, check_index
from clickloop.trainer.recipe import Promotion
from clickloop.trainer.runs import Runs
from clickloop.trainer.steps import Steps

DIMENSION, COUNT = 16, 600
RELEASE = Release("r1", None, DIMENSION, "{text}", "", "", 32, "onnx", {}, {}, 1.0)
Build = Callable[[Corpus, Vectors], Index]


def unit(count: int, seed: int) -> Vectors:
    vectors = np.random.default_rng(seed).normal(size=(count, DIMENSION)).astype(np.float32)
    scaled: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return scaled


def corpus_of(keys: list[int]) -> Corpus:
    documents = [StoredDocument(key, key, False, Document(f"d{key}", payload={"odd": key % 2})) for key in keys]
    return Corpus(max(keys, default=0), documents, np.array(keys, dtype=np.int64))


KEYS = list(range(1, 2 * COUNT, 2))  # with gaps, as deletes leave them
CORPUS, VECTORS, QUERIES = corpus_of(KEYS), unit(COUNT, 1), unit(50, 2)


def side_of(corpus: Corpus, vectors: Vectors) -> Side:
    """That never encodes a query."""
    return Side(RELEASE, corpus.keys, vectors, {}.__getitem__)


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Build]:
    store, made = EdgeStore(tmp_path / "index", {}), list[Index]()

    def one(corpus: Corpus, vectors: Vectors) -> Index:
        made.append(build_index(store, f"build-{len(made)}", corpus, side_of(corpus, vectors), lambda _share: None))
        return made[-1]

    yield one
    for index in made:
        index.close()


def check(index: Index, queries: Vectors = QUERIES) -> dict[str, float]:
    return check_index(index, side_of(CORPUS, VECTORS), queries, min_recall=0.98)


def test_what_was_judged_passes_the_check(build: Build) -> None:
    found = check(build(CORPUS, VECTORS))
    assert found["recall@10"] == 1
    assert found["query_ms"] > 0


def test_an_index_is_found_whole_after_it_was_closed(tmp_path: Path) -> None:
    store = EdgeStore(tmp_path / "index", {})
    build_index(store, "build", CORPUS, side_of(CORPUS, VECTORS), lambda _share: None).close()
    opened = store.open("build")
    assert check(opened)["recall@10"] == 1
    opened.close()


def test_payloads_are_built_in(build: Build) -> None:
    index = build(corpus_of([1, 2, 3]), VECTORS[:3])
    assert {hit.key for hit in index.query(QUERIES[0], 10, parse_filter({"odd": 1}))} == {1, 3}


def test_progress_rises_to_1(tmp_path: Path) -> None:
    shares: list[float] = []
    build_index(EdgeStore(tmp_path / "index", {}), "build", CORPUS, side_of(CORPUS, VECTORS), shares.append).close()
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_a_missing_document_is_a_fault(build: Build) -> None:
    index = build(corpus_of(KEYS[:-1]), VECTORS[:-1])
    with pytest.raises(IndexFault, match="holds 599 documents instead of 600"):
        check(index)


def test_a_document_too_many_is_a_fault(build: Build) -> None:
    index = build(CORPUS, VECTORS)
    index.upsert([2], VECTORS[:1], [{}])
    with pytest.raises(IndexFault, match="holds 601 documents instead of 600"):
        check(index)


def test_a_changed_vector_is_a_fault(build: Build) -> None:
    changed = VECTORS.copy()
    changed[-1] = VECTORS[0]
    with pytest.raises(IndexFault, match=f"another vector for key {KEYS[-1]} "):
        check(build(CORPUS, changed))


def test_too_low_a_recall_is_a_fault(build: Build) -> None:
    """All vectors but those that the check samples are others."""
    sampled = np.linspace(0, COUNT - 1, num=50, dtype=int)
    others = unit(COUNT, 3)
    others[sampled] = VECTORS[sampled]
    with pytest.raises(IndexFault, match=r"recall@10 .* is 0\.\d+, needed 0\.98"):
        check(build(CORPUS, others))


def test_without_queries_count_and_vectors_are_still_checked(build: Build) -> None:
    nothing = QUERIES[:0]
    assert check(build(CORPUS, VECTORS), nothing)["recall@10"] == 1
    with pytest.raises(IndexFault, match="another vector"):
        check(build(CORPUS, unit(COUNT, 3)), nothing)


def test_queries_are_encoded_one_by_one() -> None:
    asked: list[str] = []

    def encode(query: str) -> Vectors:
        asked.append(query)
        vector: Vectors = QUERIES[len(asked)]
        return vector

    side = Side(RELEASE, CORPUS.keys, VECTORS, encode)
    np.testing.assert_array_equal(side.queries(["a", "b"]), QUERIES[1:3])
    assert asked == ["a", "b"]
    assert side.queries([]).shape == (0, DIMENSION)


def test_another_document_in_the_place_of_one_is_a_fault(build: Build) -> None:
    index = build(corpus_of([*KEYS[:-1], KEYS[-1] + 1]), VECTORS)
    with pytest.raises(IndexFault, match=str(KEYS[-1])):
        check(index)


def test_a_build_of_another_candidate_of_the_same_run_is_made_anew(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a kill between the build of one candidate and the decision for another."""
    monkeypatch.setattr(promote, "truncated", lambda *_: 0)
    releases, runs = Releases(database, tmp_path / "releases"), Runs(database)
    store = EdgeStore(tmp_path / "index", {})
    for name in ("first", "better"):
        releases.record(replace(RELEASE, id=name))
    present = releases.add_build("first")
    with database.write() as connection:
        connection.execute(live.insert().values(id=1, build_id=present.id))
    run = runs.queue("test")
    steps = Steps(runs, run.id, lambda _step, _share: None, {})
    promoter = Promoter(database, releases, store, lambda: pytest.fail("nothing is switched"), Promotion())

    def built(name: str, vectors: Vectors) -> str:
        side = Side(replace(RELEASE, id=name), CORPUS.keys, vectors, {"q": QUERIES[0]}.__getitem__)
        return promoter.build(run, steps, CORPUS, side, ["q"])

    build_id = built("first", VECTORS)
    assert built("first", VECTORS) == build_id
    assert built("better", unit(COUNT, 3)) == build_id
    assert releases.build(build_id).release_id == "better"
    index = store.open(build_id)
    np.testing.assert_allclose(index.vectors(KEYS[:1])[KEYS[0]], unit(COUNT, 3)[0], atol=1e-6)
    index.close()


def test_a_refused_switch_is_told_once(database: Database, tmp_path: Path) -> None:
    releases, runs = Releases(database, tmp_path / "releases"), Runs(database)
    releases.record(RELEASE)
    build, run = releases.add_build(RELEASE.id), runs.queue("test")
    runs.update(run.id, state="running", reasons=["it is really better"])
    wish = releases.request_switch(build.id, "promotion", run.id, run.id)
    with database.write() as connection:
        finish_switch(connection, wish, error="the index is gone")
    steps = Steps(runs, run.id, lambda _step, _share: None, {})
    store = EdgeStore(tmp_path / "index", {})
    promoter = Promoter(database, releases, store, lambda: pytest.fail("it was answered"), Promotion())
    assert not promoter.hand_over(run, steps, build.id)
    done = runs.get(run.id)
    assert (done.state, done.outcome) == ("finished", "rejected")
    assert done.reasons == ["it is really better", "the switch was refused: the index is gone"]
