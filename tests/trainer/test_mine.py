"""Training pairs and their hard negatives, mined by sentence-transformers from the champion's stored vectors."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
import pytest
from sentence_transformers.util import mine_hard_negatives

from clickloop.retriever.types import Vectors
from clickloop.trainer.mine import MOST_PASSED, Pair, StoredVectors, Triplet, drawn, positives, triplets

QUERY = "q"


def at(scores: Mapping[str, float], query: str = QUERY) -> StoredVectors:
    """A champion that gives the texts of these documents these cosines with the query."""
    cosines = np.array(list(scores.values()))
    vectors = np.column_stack([cosines, np.sqrt(1 - cosines**2)]).astype(np.float32)
    return StoredVectors([text_of(d) for d in scores], vectors, {query: np.array([1, 0], dtype=np.float32)})


def text_of(document_id: str) -> str:
    return f"text of {document_id}"


def texts_of(documents: Mapping[str, float]) -> dict[str, str]:
    return {document_id: text_of(document_id) for document_id in documents}


def mined(scores: Mapping[str, float], right: list[str], clicked: set[str], margin: float = 0.05) -> list[Triplet]:
    pairs = [Pair(QUERY, document_id, 0.9) for document_id in right]
    ever = {QUERY: clicked | set(right)}
    return triplets(pairs, ever, texts_of(scores), at(scores), relative_margin=margin, seed=0)


def judgments(*rows: tuple[str, str, float, float]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=["query", "document_id", "relevance", "clicks"], orient="row")


def test_positives_are_clicked_and_relevant_enough_in_a_fixed_order() -> None:
    rows = [
        ("q2", "a", 0.9, 3.0),
        ("q1", "c", 0.4, 1.0),
        ("q1", "b", 0.5, 2.0),
        ("q1", "almost", 0.39, 9.0),
        ("q1", "not clicked", 0.8, 0.0),
    ]
    expected = [Pair("q1", "b", 0.5), Pair("q1", "c", 0.4), Pair("q2", "a", 0.9)]
    assert positives(judgments(*rows), 0.4) == expected
    assert positives(judgments(*rows[::-1]), 0.4) == expected


def test_of_a_long_history_the_confirmed_pairs_come_first_and_the_others_by_chance() -> None:
    pairs = [Pair(f"q{n}", "a", 0.9, confirmed=n % 4 == 0) for n in range(100)]
    assert drawn(pairs, 100, "night") == pairs
    found = drawn(pairs, 60, "night")
    assert found == drawn(pairs, 60, "night")
    assert found != drawn(pairs, 60, "another night")
    assert [pair.confirmed for pair in found] == [True] * 25 + [False] * 35
    assert len(set(found)) == 60
    assert all(pair.confirmed for pair in drawn(pairs, 20, "night"))


def test_what_is_as_likely_wrong_as_right_weighs_next_to_nothing() -> None:
    weights = [Pair(QUERY, "a", relevance).weight for relevance in (0.4, 0.5, 0.75, 1.0)]
    assert weights == [0.02, 0.02, 0.5, 1.0]


def test_the_negative_is_the_best_document_below_the_margin() -> None:
    scores = {"right": 0.8, "above": 0.9, "too near": 0.77, "hard": 0.7, "easy": 0.1}
    assert mined(scores, ["right"], set()) == [Triplet(QUERY, "text of right", "text of hard", 0.8)]
    assert mined(scores, ["right"], set(), margin=0.01)[0].negative == "text of too near"
    assert mined(scores, ["right"], set(), margin=0.5)[0].negative == "text of easy"


def test_what_anybody_ever_clicked_is_no_negative() -> None:
    scores = {"right": 0.8, "liked": 0.7, "liked too": 0.6, "hard": 0.5, "easy": 0.1}
    assert mined(scores, ["right"], {"liked", "liked too"})[0].negative == "text of hard"


def test_one_positive_is_no_negative_of_another() -> None:
    scores = {"first": 0.9, "second": 0.7, "third": 0.5, "hard": 0.4, "easy": 0.1}
    found = mined(scores, ["first", "second", "third"], set())
    assert [(t.positive, t.negative) for t in found] == [
        (text_of(right), "text of hard") for right in ("first", "second", "third")
    ]


def test_another_query_may_use_what_this_one_clicked() -> None:
    scores = {"a": 0.8, "b": 0.6}
    champion = at(scores)
    both = StoredVectors(
        [text_of(d) for d in scores],
        champion.encode_document([text_of(d) for d in scores]),
        {query: champion.encode_query([QUERY])[0] for query in ("q1", "q2")},
    )
    pairs = [Pair("q1", "a", 0.9), Pair("q2", "a", 0.9), Pair("q2", "b", 0.9)]
    clicked = {"q1": {"a"}, "q2": {"a", "b"}}
    found = triplets(pairs, clicked, texts_of(scores), both, relative_margin=0.05, seed=0)
    assert found == [Triplet("q1", "text of a", "text of b", 0.8)]


def test_a_copy_of_the_positive_under_another_id_is_no_negative() -> None:
    scores = {"right": 0.8, "hard": 0.5}
    texts = {"right": "text of right", "copy": "text of right", "hard": "text of hard"}
    found = triplets([Pair(QUERY, "right", 0.9)], {}, texts, at(scores), relative_margin=0.05, seed=0)
    assert [t.negative for t in found] == ["text of hard"]


@pytest.mark.parametrize("near", [10, 30, 300])
def test_the_negative_is_found_behind_any_number_of_documents_within_the_margin(near: int) -> None:
    scores = {"right": 0.8, **{f"near {i}": 0.79 - i * 1e-5 for i in range(near)}, "liked": 0.72, "hard": 0.7}
    scores |= {f"easy {i}": 0.1 for i in range(300)}
    assert mined(scores, ["right"], {"liked"}) == [Triplet(QUERY, "text of right", "text of hard", 0.8)]


def test_few_queries_at_a_time_are_compared_with_all_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = {"right": 0.8, **{f"near {i}": 0.79 for i in range(30)}, "hard": 0.7}
    champion, queries = at(scores), ["q1", "q2", "q3"]
    vectors = champion.encode_document([text_of(d) for d in scores])
    many = StoredVectors(
        [text_of(d) for d in scores], vectors, dict.fromkeys(queries, champion.encode_query([QUERY])[0])
    )
    monkeypatch.setattr("clickloop.trainer.mine.SCORES", 2 * len(scores))
    pairs = [Pair(query, "right", 0.9) for query in queries]
    found = triplets(pairs, {}, texts_of(scores), many, relative_margin=0.05, seed=0)
    assert [(t.query, t.negative) for t in found] == [(query, "text of hard") for query in queries]


@pytest.mark.parametrize("seed", range(5))
def test_a_pair_that_the_champion_puts_last_gets_some_document_above_the_margin(seed: int) -> None:
    scores = {"right": 0.2, "clicked": 0.25, "near": 0.195, **{f"above {i}": 0.5 + i / 100 for i in range(8)}}
    pairs = [Pair(QUERY, "right", 0.9)]
    (found,) = triplets(
        pairs, {QUERY: {"right", "clicked"}}, texts_of(scores), at(scores), relative_margin=0.05, seed=seed
    )
    assert found.negative.startswith("text of above")


def test_the_random_document_depends_on_the_seed_alone() -> None:
    scores = {"right": 0.2, **{f"above {i}": 0.5 + i / 100 for i in range(8)}}

    def negatives() -> list[str]:
        pairs, ever = [Pair(QUERY, "right", 0.9)], {QUERY: {"right"}}
        return [
            triplets(pairs, ever, texts_of(scores), at(scores), relative_margin=0.05, seed=seed)[0].negative
            for seed in range(6)
        ]

    first = negatives()
    assert negatives() == first
    assert len(set(first)) > 1


def test_a_pair_with_nothing_left_to_contrast_is_left_out() -> None:
    assert mined({"right": 0.8, "liked": 0.1}, ["right"], {"liked"}) == []
    assert mined({"right": 0.8, "near": 0.79}, ["right"], set()) == []
    assert mined({"right": 0.8}, ["right"], set()) == []


def test_documents_that_vanished_teach_nothing() -> None:
    scores = {"right": 0.8, "hard": 0.5}
    assert mined(scores, ["right", "vanished"], {"vanished too"}) == [
        Triplet(QUERY, "text of right", "text of hard", 0.8),
    ]
    assert mined(scores, ["vanished"], set()) == []
    assert mined(scores, [], set()) == []


@pytest.mark.parametrize("other_clicks", [False, True], ids=["", "where more was clicked than is trained on"])
def test_every_negative_keeps_the_rules_on_random_corpora(other_clicks: bool) -> None:
    """The corpus is small enough for every document to be considered: the negative is the best one allowed, by the
    lowest score of the query's positives. Where there is none it is by the score of its own positive, and then any
    document above that.
    """
    documents, queries = [f"d{i}" for i in range(9)], [f"q{i}" for i in range(40)]
    texts = {d: text_of(d) for d in documents}
    random = np.random.default_rng(7)
    document_vectors, query_vectors = unit(random, len(documents)), unit(random, len(queries))
    scores = query_vectors @ document_vectors.T
    pairs = [Pair(q, d, 0.9) for q in queries for d in documents if random.random() < 0.2]
    clicked = {q: {pair.document_id for pair in pairs if pair.query == q} for q in queries}
    if other_clicks:
        clicked = {q: own | {d for d in documents if random.random() < 0.3} for q, own in clicked.items()}
    known = StoredVectors(list(texts.values()), document_vectors, dict(zip(queries, query_vectors, strict=True)))
    found = triplets(pairs, clicked, texts, known, relative_margin=0.05, seed=0)
    negatives = {(t.query, t.positive): t.negative for t in found}
    assert len(negatives) == len(found)
    for pair in pairs:
        row = dict(zip(documents, scores[queries.index(pair.query)].tolist(), strict=True))
        lowest = min(row[other.document_id] for other in pairs if other.query == pair.query)
        own = row[pair.document_id]
        free = {d: score for d, score in row.items() if d not in clicked[pair.query]}
        ways = [[d for d, score in free.items() if score <= least - 0.05 * abs(least)] for least in (lowest, own)]
        best = [max(allowed, key=free.__getitem__) for allowed in ways if allowed][:1]
        expected = best or [d for d, score in free.items() if score > own]
        assert negatives.get((pair.query, texts[pair.document_id])) in ([texts[d] for d in expected] or [None])


def test_one_senseless_click_does_not_cost_the_hard_negative() -> None:
    scores = {"right": 0.8, "hard": 0.6, "easy": 0.4, **{f"other {i}": 0.3 - i / 100 for i in range(20)}, "noise": 0.05}
    assert mined(scores, ["right"], {"noise"})[0].negative == "text of hard"


def test_one_query_with_many_clicks_does_not_cost_memory_for_every_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each negative that is asked for is a row for each pair. What is left over is searched for by itself."""
    asked: list[int] = []

    def recorded(*given: Any, num_negatives: int, **more: Any) -> Any:
        asked.append(num_negatives)
        return mine_hard_negatives(*given, num_negatives=num_negatives, **more)

    monkeypatch.setattr("sentence_transformers.util.mine_hard_negatives", recorded)
    liked = {f"liked {number}": 0.7 - number / 1000 for number in range(3 * MOST_PASSED)}
    scores = {"right": 0.8, **liked, "hard": 0.3, "easy": 0.1}
    assert mined(scores, ["right"], set(liked))[0].negative == "text of hard"
    assert asked == [1 + MOST_PASSED]


def unit(random: np.random.Generator, count: int) -> Vectors:
    vectors = random.normal(size=(count, 6)).astype(np.float32)
    scaled: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return scaled


def test_copies_of_the_positive_do_not_use_up_the_random_choice() -> None:
    copies = {f"copy {i}": "text of right" for i in range(8)}
    texts = {"right": "text of right", **copies, "above": "text of above"}
    scores = {"right": 0.2, "above": 0.5}
    for seed in range(5):
        pairs = [Pair(QUERY, "right", 0.9)]
        found = triplets(pairs, {QUERY: {"right"}}, texts, at(scores), relative_margin=0.05, seed=seed)
        assert [t.negative for t in found] == ["text of above"]
