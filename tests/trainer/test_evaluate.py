"""Metrics and evidence, compared with numbers worked out by hand."""

from dataclasses import replace
from math import log2

import numpy as np
import orjson
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clickloop.trainer.evaluate import (
    DEPTH,
    METRICS,
    Judged,
    Result,
    by_cluster,
    compare,
    evidence,
    judged_queries,
    summary,
    visibility,
)
from clickloop.trainer.sample import Sample

CLUSTERS = {"a": "A", "b": "B"}
DOCUMENTS = [f"d{number}" for number in range(1, 13)]


def ranking(*best: str) -> list[str]:
    """These documents come first; the others follow in their order."""
    return [*best, *(document_id for document_id in DOCUMENTS if document_id not in best)][:DEPTH]


def judged(gains: dict[str, float], query: str = "q", ideal: float = 1.0) -> Judged:
    chosen = {document_id: 0.9 for document_id, gain in gains.items() if gain >= 0.5}
    noise = dict.fromkeys(gains, (0.5, 0.25, 3.0))
    return Judged(query, "", 1.0, f"cluster of {query}", gains, noise, ideal, chosen, visible=0.9)


def one(gains: dict[str, float], *best: str) -> dict[str, float]:
    """The metrics of one query whose ranking begins with `best`."""
    same = [ranking(*best)]
    (result,) = compare([judged(gains)], same, same)
    assert result.champion == result.candidate
    return result.champion


def gains_of(*rows: tuple[str, str, str, float], views: int = 1) -> pl.DataFrame:
    gains = pl.DataFrame(rows, schema=["query", "within", "document_id", "gain"], orient="row")
    return gains.with_columns(views=views, variance=0.5, third=0.25, click=3.0)


def result(delta: float, cluster: str = "c", query: str = "q", share: float = 1.0) -> Result:
    values = [dict.fromkeys(METRICS, 0.5 + sign * delta / 2) for sign in (-1, 1)]
    return Result(query, "", share, cluster, values[0], values[1], [], [], {}, 0.9, 0.0, 0.5, 0.04, -0.02, 3.0)


def differences(results: list[Result]) -> list[float]:
    """The units of the evidence."""
    return by_cluster(results, lambda result: result.delta)


def test_gains_are_discounted_by_rank_and_may_be_negative() -> None:
    assert one({"d1": 1.0}, "d1")["nDCG@10"] == pytest.approx(1)
    assert one({"d3": 1.0, "d5": -0.5}, "d1", "d3", "d5")["nDCG@10"] == pytest.approx(1 / log2(3) - 0.5 / log2(4))


def test_rr_is_one_over_the_first_chosen_rank_and_recall_counts_what_is_found() -> None:
    found = one({"d2": 1.0, "d12": 1.0}, "d1", "d2")
    assert (found["RR@10"], found["R@10"]) == (pytest.approx(0.5), pytest.approx(0.5))


def test_rank_10_counts_and_rank_11_does_not() -> None:
    assert one({"d10": 1.0})["nDCG@10"] == pytest.approx(1 / log2(11))
    assert one({"d11": 1.0})["nDCG@10"] == 0


def test_a_query_without_a_chosen_document_is_kept() -> None:
    found = one({"d1": 0.2, "d2": -0.1}, "d2", "d1")
    assert set(found) == {"nDCG@10"}
    assert found["nDCG@10"] == pytest.approx(-0.1 + 0.2 / log2(3))


def test_each_side_has_its_own_hits_and_the_difference_is_candidate_minus_champion() -> None:
    (found,) = compare([judged({"d7": 1.0})], [ranking("d1", "d7")], [ranking("d7")])
    assert found.champion_hits[:2] == ["d1", "d7"]
    assert found.candidate_hits[0] == "d7"
    assert found.delta == pytest.approx(1 - 1 / log2(3))


def test_all_queries_share_one_scale() -> None:
    """The mean ideal: a query with little to find does not count as much as one with a lot."""
    both = [ranking("d1"), ranking("d2")]
    results = compare([judged({"d1": 1.0}, "a", ideal=3.0), judged({"d2": 1.0}, "b", ideal=1.0)], both, both)
    assert [found.champion["nDCG@10"] for found in results] == [pytest.approx(0.5)] * 2


def test_nothing_judged_gives_no_results_no_evidence_and_a_summary_of_zeros() -> None:
    assert compare([], [], []) == []
    assert evidence([]) == Sample()
    assert summary([], "champion") == dict.fromkeys(METRICS, 0.0)


def test_queries_without_clicks_judge_too_and_documents_that_cannot_be_found_do_not() -> None:
    judgments = pl.DataFrame(
        {
            "query": ["a", "a", "b"],
            "document_id": ["d1", "gone", "d2"],
            "relevance": [0.9, 0.9, 0.1],
        }
    )
    first, second = judged_queries(judgments, gains_of(("a", "", "d1", 1.1), ("b", "", "d2", -0.2)), CLUSTERS)
    assert (first.gains, first.chosen, first.cluster) == ({"d1": 1.1}, {"d1": 0.9}, "A")
    assert (second.gains, second.chosen, second.ideal) == ({"d2": -0.2}, {}, 1.0)
    assert (first.visible, second.visible) == (pytest.approx(0.9), pytest.approx(0.1))


def test_a_cluster_is_one_value_however_many_queries_it_has() -> None:
    results = [result(0.2, "one"), result(0.4, "one"), result(-0.1, "other")]
    assert differences(results) == [pytest.approx(0.3), pytest.approx(-0.1)]
    found = evidence(results)
    assert (found.n, found.total) == (2, pytest.approx(0.2))


def test_what_noise_alone_gives_to_the_evidence_adds_up() -> None:
    """A mean of two independent queries has a quarter of the sum of their variances, an eighth of that of their third
    moments, and loses half of what one of them loses.
    """
    found = evidence([result(0.2, "one"), result(0.4, "one"), result(-0.1, "other")])
    assert found.variance == pytest.approx(0.04 * 2 / 4 + 0.04)
    assert found.third == pytest.approx(-0.02 * 2 / 8 - 0.02)
    assert found.loss == pytest.approx((1.5**3 + 3**3) / (1.5**2 + 3**2))


def test_what_noise_alone_gives_to_a_difference_goes_by_the_change_of_discounts() -> None:
    """d1 falls from rank 1 to 3, d3 rises to 1, d2 stays; what was never shown has no clicks."""
    (found,) = compare(
        [judged(dict.fromkeys(("d1", "d2", "d3"), 0.0), ideal=2.0)],
        [ranking("d1", "d2", "d3")],
        [ranking("d3", "d2", "d1")],
    )
    moved = (1 - 1 / log2(4)) / 2
    assert found.variance == pytest.approx(2 * moved**2 * 0.5)
    assert found.third == pytest.approx(0), "what rises and what falls cancel out"
    assert found.loss == pytest.approx(moved * 3)
    (lost,) = compare([judged({"d11": 0.0})], [ranking("d11")], [ranking()])
    assert (lost.variance, lost.third, lost.loss) == (pytest.approx(0.5), pytest.approx(-0.25), pytest.approx(3))


def test_the_filters_of_a_query_count_by_those_who_asked_within_them() -> None:
    """One person in a filter of their own has no more say than anybody else."""
    judgments = pl.DataFrame({"query": ["a", "a"], "document_id": ["d1", "d2"], "relevance": [0.9, 0.2]})
    many = gains_of(("a", "", "d1", 1.0), ("a", "", "d2", 1.0), views=99)
    gains = pl.concat([many, gains_of(("a", "{}", "d2", 5.0))])
    assert [found.share for found in judged_queries(judgments, gains, CLUSTERS)] == [0.99, 0.01]
    within = [result(-0.1, share=0.99), result(0.9, share=0.01)]
    assert differences(within) == [pytest.approx(-0.09)]
    assert differences([*within, result(0.29, query="another")]) == [pytest.approx(0.1)], "queries count alike"
    delta = summary(within, "candidate")["nDCG@10"] - summary(within, "champion")["nDCG@10"]
    assert delta == pytest.approx(-0.09)


def test_the_scale_does_not_depend_on_how_many_filters_a_query_had() -> None:
    popular = replace(judged({"d1": 1.0}, "a", ideal=3.0), share=0.1)
    parts = [replace(popular, within=str(part)) for part in range(10)]
    one, ten = (
        compare([judged({"d2": 1.0}, "b"), *those], *[[ranking("d2"), *[ranking("d1")] * len(those)]] * 2)
        for those in ([replace(popular, share=1.0)], parts)
    )
    assert one[0].champion["nDCG@10"] == pytest.approx(0.5)
    assert ten[0].champion["nDCG@10"] == pytest.approx(0.5)


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=20))
def test_swapping_the_sides_turns_the_evidence_around(deltas: list[float]) -> None:
    ahead = differences([result(delta, str(i)) for i, delta in enumerate(deltas)])
    behind = differences([result(-delta, str(i)) for i, delta in enumerate(deltas)])
    assert np.allclose(ahead, [-value for value in behind])


def test_a_result_can_be_written_to_a_report() -> None:
    (found,) = compare([judged({"d1": 1.0})], [ranking("d1")], [ranking("d2")])
    assert orjson.loads(orjson.dumps(found.as_json()))["chosen"] == {"d1": 0.9}


def test_what_cannot_be_seen_is_told() -> None:
    """A gain needs a relevant document that was shown, and hits that a judge was shown."""
    gains = dict.fromkeys(DOCUMENTS[:5], 0.1)
    found = compare([judged(gains)], [ranking(*DOCUMENTS)], [ranking(*DOCUMENTS[::-1])])
    assert visibility(found) == {
        "visible": pytest.approx(0.9),
        "champion_unseen": pytest.approx(0.5),
        "candidate_unseen": pytest.approx(0.7),
    }
    assert visibility([]) == {}


def test_several_uncertain_documents_make_a_relevant_one_probable() -> None:
    pairs = {"query": ["a", "a", "a"], "document_id": ["d1", "d2", "gone"]}
    judgments = pl.DataFrame({**pairs, "relevance": [0.5, 0.4, 1.0]})
    (found,) = judged_queries(judgments, gains_of(("a", "", "d1", 0.1), ("a", "", "d2", 0.1)), CLUSTERS)
    assert found.visible == pytest.approx(1 - 0.5 * 0.6)


def test_a_query_is_judged_within_each_of_its_filters() -> None:
    """Relevance is one thing wherever it was found; gains belong to what was shown."""
    judgments = pl.DataFrame({"query": ["a", "a"], "document_id": ["d1", "d2"], "relevance": [0.9, 0.2]})
    gains = gains_of(("a", "", "d1", 1.0), ("a", "", "d2", -0.1), ("a", '{"tenant": 1}', "d2", 0.5))
    everywhere, within = judged_queries(judgments, gains, CLUSTERS)
    assert (everywhere.within, everywhere.gains) == ("", {"d1": 1.0, "d2": -0.1})
    assert (within.within, within.gains, within.chosen) == ('{"tenant": 1}', {"d2": 0.5}, {})
    (found,) = compare([within], [ranking("d2")], [ranking("d1")])
    assert found.as_json()["within"] == {"tenant": 1}
