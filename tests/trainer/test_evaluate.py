"""Metrics and evidence, compared with numbers worked out by hand."""

from math import log2

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clickloop.retriever.shadow import ShadowIndex
from clickloop.retriever.types import Vectors
from clickloop.trainer.evaluate import (
    METRICS,
    MIN_FOUND,
    Judged,
    Result,
    compare,
    evidence,
    judged_queries,
    summary,
)

DOCUMENTS = [f"d{number}" for number in range(1, 13)]
IDS = {100 + number: document_id for number, document_id in enumerate(DOCUMENTS)}
Side = tuple[ShadowIndex, Vectors]


def ranking(*best: str) -> Vectors:
    """A query vector for which these documents come first; the others follow in their order."""
    order = [*best, *(document_id for document_id in DOCUMENTS if document_id not in best)]
    weights = np.array([len(DOCUMENTS) - order.index(document_id) for document_id in DOCUMENTS], dtype=np.float32)
    scaled: Vectors = weights / np.linalg.norm(weights)
    return scaled


def side(*queries: Vectors) -> Side:
    """Every document is one axis."""
    axes = np.eye(len(DOCUMENTS), dtype=np.float32)
    return ShadowIndex(np.array(list(IDS)), axes), np.stack(queries)


def judged(gains: dict[str, float], query: str = "q", weight: float = 1.0) -> Judged:
    return Judged(query, f"cluster of {query}", weight, gains)


def one(gains: dict[str, float], *best: str) -> dict[str, float]:
    """The metrics of one query whose ranking begins with `best`."""
    same = side(ranking(*best))
    (result,) = compare([judged(gains)], same, same, IDS)
    assert result.champion == result.candidate
    return result.champion


def result(delta: float, weight: float = 1.0, cluster: str = "c") -> Result:
    values = [dict.fromkeys(METRICS, 0.5 + sign * delta / 2) for sign in (-1, 1)]
    return Result("q", cluster, weight, values[0], values[1], [], [], {})


def test_the_best_possible_order_scores_1() -> None:
    assert one({"d7": 0.9, "d3": 0.4}, "d7", "d3") == {"nDCG@10": 1.0, "RR@10": 1.0, "R@10": 1.0}


def test_graded_gains_are_discounted_by_rank() -> None:
    found = one({"d7": 0.9, "d3": 0.4}, "d3", "d1", "d7")
    best = 90 + 40 / log2(3)
    assert found["nDCG@10"] == pytest.approx((40 + 90 / log2(4)) / best)
    assert (found["RR@10"], found["R@10"]) == (1.0, 1.0)


def test_rr_is_one_over_the_first_right_rank_and_recall_counts_what_is_found() -> None:
    found = one({"d12": 0.5, "d4": 0.5, "d5": 0.5}, "d1", "d2", "d3", "d4", "d5")
    assert found["RR@10"] == pytest.approx(1 / 4)
    assert found["R@10"] == pytest.approx(2 / 3)
    expected = (1 / log2(5) + 1 / log2(6)) / (1 + 1 / log2(3) + 1 / log2(4))
    assert found["nDCG@10"] == pytest.approx(expected)


def test_rank_10_counts_and_rank_11_does_not() -> None:
    assert one({"d10": 0.7})["nDCG@10"] == pytest.approx(1 / log2(11))
    assert one({"d11": 0.7}) == dict.fromkeys(METRICS, 0.0)


def test_a_query_that_finds_nothing_is_kept_with_zero() -> None:
    both = side(ranking(), ranking())
    found = compare([judged({"d12": 0.9}, "lost"), judged({"d1": 0.9}, "found")], both, both, IDS)
    assert [(r.query, r.champion["nDCG@10"]) for r in found] == [("lost", 0.0), ("found", 1.0)]


def test_the_faintest_relevance_still_counts_as_relevant() -> None:
    assert one({"d1": 0.001})["nDCG@10"] == 1.0


def test_each_side_has_its_own_hits_and_the_difference_is_candidate_minus_champion() -> None:
    champion, candidate = side(ranking("d2", "d1")), side(ranking("d1", "d2"))
    (found,) = compare([judged({"d1": 0.8})], champion, candidate, IDS)
    assert (found.champion_hits[:2], found.candidate_hits[:2]) == (["d2", "d1"], ["d1", "d2"])
    assert len(found.champion_hits) == 10
    assert found.delta == pytest.approx(1 - 1 / log2(3))


def test_equal_scores_do_not_favour_any_id() -> None:
    """Equal cosines are ranked in the order of the keys, and the metric follows that order."""
    flat = np.full(len(DOCUMENTS), len(DOCUMENTS) ** -0.5, dtype=np.float32)
    same = side(flat)
    (found,) = compare([judged({"d2": 0.9})], same, same, IDS)
    assert found.champion_hits == DOCUMENTS[:10]
    assert found.champion["RR@10"] == 0.5


def test_nothing_judged_gives_no_results_no_evidence_and_a_summary_of_zeros() -> None:
    assert compare([], side(ranking()), side(ranking()), IDS) == []
    assert evidence([]).values == ()
    assert evidence([]).estimate == 0
    assert summary([], "champion") == dict.fromkeys(METRICS, 0.0)


def rows(*values: tuple[str, str, float, float, float]) -> pl.DataFrame:
    return pl.DataFrame(values, schema=["query", "document_id", "relevance", "clicks", "found"], orient="row")


def test_only_clicked_documents_that_still_exist_judge() -> None:
    table = rows(
        ("q1", "alive", 0.8, 2.0, 0.9),
        ("q1", "gone", 0.9, 3.0, 0.9),
        ("q1", "seen", 0.3, 0.0, 0.9),
        ("q2", "gone", 0.9, 1.0, 0.9),
        ("q3", "seen", 0.3, 0.0, 0.9),
    )
    found = judged_queries(table, {q: f"cluster {q}" for q in ("q1", "q2", "q3")}, {"alive": 1, "seen": 2})
    assert [(item.query, item.cluster, list(item.gains)) for item in found] == [("q1", "cluster q1", ["alive"])]
    assert judged_queries(table, {}, {}) == []


def test_what_is_seldom_found_gains_more_up_to_a_limit() -> None:
    table = rows(
        ("q", "always", 0.8, 2.0, 1.0),
        ("q", "half", 0.8, 2.0, 0.5),
        ("q", "limit", 0.8, 1.0, MIN_FOUND),
        ("q", "rare", 0.8, 1.0, 0.01),
        ("q", "never", 0.8, 1.0, 0.0),
    )
    (found,) = judged_queries(table, {"q": "q"}, dict.fromkeys(table["document_id"], 1))
    most = 0.8 / MIN_FOUND
    assert found.gains == pytest.approx({"always": 0.8, "half": 1.6, "limit": most, "rare": most, "never": most})


def test_a_query_weighs_as_much_as_is_known_of_it() -> None:
    table = rows(("one", "d1", 0.8, 1.0, 1.0), ("two", "d1", 0.3, 1.0, 1.0), ("two", "d2", 0.9, 1.0, 1.0))
    found = judged_queries(table, {"one": "c1", "two": "c2"}, {"d1": 1, "d2": 2})
    assert [item.weight for item in found] == pytest.approx([0.8, 0.9 + 0.3 / log2(3)])


def test_the_weighted_mean_is_all_dcg_over_all_ideal_dcg() -> None:
    table = rows(("one", "d1", 0.8, 1.0, 1.0), ("two", "d1", 0.3, 1.0, 1.0), ("two", "d2", 0.9, 1.0, 1.0))
    both = judged_queries(table, {"one": "c1", "two": "c2"}, {"d1": 1, "d2": 2})
    same = side(ranking("d3", "d1"), ranking("d1", "d2"))
    found = summary(compare(both, same, same, IDS), "champion")["nDCG@10"]
    dcg = 0.8 / log2(3) + (0.3 + 0.9 / log2(3))
    assert found == pytest.approx(dcg / (0.8 + 0.9 + 0.3 / log2(3)))


def test_a_query_with_more_clicked_documents_than_ranks_can_still_be_perfect() -> None:
    gains = [(f"d{number}", 1 - number / 50) for number in range(1, 13)]
    table = rows(*(("q", document_id, gain, 1.0, 1.0) for document_id, gain in gains))
    (item,) = judged_queries(table, {"q": "q"}, dict.fromkeys(DOCUMENTS, 1))
    same = side(ranking())
    (found,) = compare([item], same, same, IDS)
    assert found.champion["nDCG@10"] == pytest.approx(1)
    assert item.weight == pytest.approx(sum(gain / log2(rank + 1) for rank, (_, gain) in enumerate(gains[:10], 1)))


def test_a_cluster_is_one_value() -> None:
    found = evidence([result(0.4, cluster="a"), result(0.2, cluster="a"), result(-0.1, cluster="b")])
    assert found.values == pytest.approx((0.3, -0.1))
    assert found.queries == 3


def test_a_cluster_does_not_gain_weight_by_many_queries() -> None:
    many = [result(0.5, cluster="a") for _ in range(50)]
    assert evidence([*many, result(-0.5, cluster="b")]).estimate == pytest.approx(0)


weighted = st.lists(st.tuples(st.floats(-1, 1), st.floats(0.01, 10)), min_size=1, max_size=30)


@given(weighted)
def test_the_mean_of_the_evidence_is_the_weighted_mean_of_the_gains(pairs: list[tuple[float, float]]) -> None:
    results = [result(delta, weight, f"c{i}") for i, (delta, weight) in enumerate(pairs)]
    deltas, weights = np.array(pairs).T
    assert evidence(results).estimate == pytest.approx(np.average(deltas, weights=weights), abs=1e-12)
    gain = summary(results, "candidate")["nDCG@10"] - summary(results, "champion")["nDCG@10"]
    assert evidence(results).estimate == pytest.approx(gain, abs=1e-12)


@given(weighted)
def test_swapping_the_sides_turns_the_evidence_around(pairs: list[tuple[float, float]]) -> None:
    results = [result(delta, weight, f"c{i // 2}") for i, (delta, weight) in enumerate(pairs)]
    swapped = [result(-delta, weight, f"c{i // 2}") for i, (delta, weight) in enumerate(pairs)]
    assert evidence(swapped).values == pytest.approx([-value for value in evidence(results).values], abs=1e-12)


def test_swapping_the_models_turns_the_differences_around() -> None:
    first, second = side(ranking("d4", "d1"), ranking("d9")), side(ranking("d3"), ranking("d1", "d5", "d9"))
    queries = [judged({"d1": 0.9, "d4": 0.3}, "q1", 2.0), judged({"d9": 0.6}, "q2")]
    one_way, other_way = compare(queries, first, second, IDS), compare(queries, second, first, IDS)
    assert evidence(one_way).values == tuple(-value for value in evidence(other_way).values)
    assert evidence(one_way).estimate != 0


def test_a_result_can_be_written_to_a_report() -> None:
    (found,) = compare([judged({"d1": 0.8})], side(ranking("d2")), side(ranking()), IDS)
    content = found.as_json()
    assert content["relevant"] == {"d1": 0.8}
    assert content["candidate"]["nDCG@10"] == 1.0
