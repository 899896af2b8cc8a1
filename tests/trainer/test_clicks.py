"""The click model: what it says about simulated people, whose examination and taste are known."""

from random import Random
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from impressions import RIGHT, Row, crowd, log_of, simulated

from clickloop.retriever.explore import EXPLORATION
from clickloop.retriever.search import RANKER
from clickloop.trainer.click_fit import NAMES, fit
from clickloop.trainer.click_models import (
    EXPLORED,
    FEATURES,
    GAPS,
    LEVELS,
    ClickModel,
    Floats,
    Prior,
)
from clickloop.trainer.clicks import choose, corrected_gains, judge
from clickloop.trainer.people import KINDS
from clickloop.trainer.tally import count_people

SHARE = 0.05  # of shown documents that are relevant
LIKING, NOISE = 0.8, 0.1


def by_position(examination: Floats, liking: float, noise: float, share: Floats) -> ClickModel:
    looks = np.repeat(examination[:, None], GAPS, axis=1)
    nobody = pl.DataFrame(schema={"document_id": pl.String, "queries": pl.UInt32})
    prior = Prior(np.log(share / (1 - share)), np.zeros(FEATURES), np.zeros(FEATURES), nobody)
    return ClickModel("position", liking * looks, noise * looks, np.zeros(LEVELS), prior)


KNOWN = by_position(1 / np.arange(1, 11), LIKING, NOISE, np.full(10, SHARE))


def judged(rows: list[Row], model: ClickModel = KNOWN) -> dict[str, dict[str, Any]]:
    """Judgments by document id."""
    found = judge(count_people(log_of(rows)), model)
    return {row["document_id"]: row for row in found.rows(named=True)}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_right_documents_beat_wrong_ones_that_were_shown_above_them(seed: int) -> None:
    log = simulated(seed, 1.0)
    counts = count_people(log)
    judgments = judge(counts, fit(counts))
    mean_rank = log.group_by("query", "document_id").agg(pl.col("rank").mean())
    known = judgments.join(mean_rank, on=["query", "document_id"]).filter(pl.col("views") >= 20)
    right, wrong = (known.filter(pl.col("document_id").is_in(list(RIGHT)) == is_right) for is_right in (True, False))
    pairs = right.join(wrong, on="query", suffix="_wrong").filter(pl.col("rank") > pl.col("rank_wrong"))
    assert len(pairs) > 100
    assert (pairs["relevance"] > pairs["relevance_wrong"]).mean() > 0.95  # type: ignore[operator]
    assert pairs["relevance"].mean() > pairs["relevance_wrong"].mean() + 0.4  # type: ignore[operator]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_relevance_is_the_share_of_right_documents_among_those_judged_alike(seed: int) -> None:
    counts = count_people(simulated(seed, 1.0))
    judgments = judge(counts, fit(counts)).with_columns(right=pl.col("document_id").is_in(list(RIGHT)))
    for low, high in [(0, 0.2), (0.8, 1)]:
        alike = judgments.filter(pl.col("relevance").is_between(low, high))
        assert alike.select(pl.col("right").mean() - pl.col("relevance").mean()).item() == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize("rank", [1, 3, 10])
def test_one_click_is_a_hint_and_no_proof(views: int, rank: int) -> None:
    relevance = judged(crowd("d", views, 1, rank))["d"]["relevance"]
    assert SHARE < relevance < 1 / views


def test_a_lone_click_far_down_does_not_outrank_five_of_five_at_the_top() -> None:
    found = judged(crowd("lone", 1, 1, rank=10) + crowd("sure", 5, 5))
    assert found["lone"]["relevance"] < found["sure"]["relevance"] - 0.1
    assert found["lone"]["error"] > found["sure"]["error"]


def test_passed_over_at_the_top_says_more_than_far_down() -> None:
    found = judged(crowd("top", 5, 0) + crowd("bottom", 5, 0, rank=10))
    assert found["top"]["relevance"] < found["bottom"]["relevance"] < SHARE
    assert found["bottom"]["relevance"] == pytest.approx(SHARE, abs=0.05)


def explored(log: pl.DataFrame) -> pl.DataFrame:
    return log.with_columns(pl.col("search") + 1_000_000, ranker=pl.lit(EXPLORATION))


def test_what_only_exploration_showed_is_not_taken_for_what_a_ranker_put_there() -> None:
    """At rank 1 half of the results of this ranker are right; a click on an explored one is still mostly noise."""
    model = by_position(KNOWN.examination, 0.8, 0.1, np.full(10, 0.5))
    rows = crowd("d", 1, 1)
    (ranked,) = judge(count_people(log_of(rows)), model)["relevance"]
    (lucky,) = judge(count_people(explored(log_of(rows))), model)["relevance"]
    assert ranked == pytest.approx(8 / 9)
    assert lucky == pytest.approx(8 * EXPLORED / (8 * EXPLORED + 1 - EXPLORED))
    (sure,) = judge(count_people(explored(log_of(crowd("d", 4, 4)))), model)["relevance"]
    assert sure > 0.95


def test_the_best_rank_is_the_best_of_a_ranker() -> None:
    ranked, tried = log_of(crowd("d", 1, 0, rank=9)), explored(log_of(crowd("d", 1, 0, rank=6)))
    assert count_people(pl.concat([ranked, tried]))["best"].to_list() == [9, 9]
    assert count_people(tried)["best"].to_list() == [0]


def test_the_click_model_is_fitted_without_what_only_exploration_showed() -> None:
    log = simulated(1, 1.0).with_columns(ranker=pl.lit(RANKER))
    tried = explored(log_of([row for i in range(400) for row in crowd(f"e{i}", 1, i % 2, rank=2)]))
    before, after = fit(count_people(log)), fit(count_people(pl.concat([log, tried])))
    np.testing.assert_array_equal(after.right, before.right)
    np.testing.assert_array_equal(after.wrong, before.wrong)
    np.testing.assert_array_equal(after.share, before.share)


def test_who_clicks_again_and_again_counts_once() -> None:
    once, often = crowd("d", 3, 1), crowd("d", 3, 1) + [("q", "d 1 0", "d", 4, True)] * 50
    assert judged(often) == judged(once)


def test_queries_documents_and_people_are_not_mixed_up() -> None:
    rows: list[Row] = [("q1", "ann", "d", 1, True), ("q2", "ann", "d", 1, False), ("q1", "bob", "e", 1, False)]
    found = judge(count_people(log_of(rows)), KNOWN).sort("query", "document_id")
    assert found.select("query", "document_id", "clicks", "views").rows() == [
        ("q1", "d", 1.0, 1.0),
        ("q1", "e", 0.0, 1.0),
        ("q2", "d", 0.0, 1.0),
    ]


@pytest.mark.parametrize("rank", [1, 5])
def test_more_evidence_leaves_less_doubt(rank: int) -> None:
    for liked in (True, False):
        few, many = (judged(crowd("d", people, liked * people, rank))["d"] for people in (2, 128))
        assert many["error"] < few["error"] / 2
        assert (many["relevance"] > 0.5) == liked


def test_many_noise_clicks_do_not_add_up_to_relevance() -> None:
    """Every tenth of many people clicks a wrong document at the top; two of two clicked the right one far down."""
    found = judged(crowd("wrong", 200, 20) + crowd("right", 2, 2, rank=6))
    assert found["wrong"]["relevance"] < SHARE < 0.5 < found["right"]["relevance"]


@pytest.mark.parametrize("rank", [1, 3, 10])
@pytest.mark.parametrize(("attraction", "gain"), [(LIKING, 1.0), (NOISE, 0.0)])
def test_corrected_gains_do_not_depend_on_the_rank(rank: int, attraction: float, gain: float) -> None:
    clicks = 10_000 * KNOWN.examination[rank - 1] * attraction
    row = {"query": "q", "document_id": "d", "rank": rank, "gap": 0, "views": 10_000.0, "clicks": clicks}
    (found,) = corrected_gains(pl.DataFrame([row]), KNOWN)["gain"]
    assert found == pytest.approx(gain, abs=1e-9)


def test_the_moments_of_a_gain_are_those_of_noise_that_was_not_drawn() -> None:
    """One row of three views at rank 4 and one of two at rank 9, without a click; simulated many times."""
    rows = [
        {"query": "q", "document_id": "d", "rank": rank, "gap": 0, "views": views, "clicks": 0}
        for rank, views in ((4, 3), (9, 2))
    ]
    found = corrected_gains(pl.DataFrame(rows), KNOWN).row(0, named=True)
    random = np.random.default_rng(3)
    gains = np.zeros(1_000_000)
    for row in rows:
        looked = KNOWN.examination[row["rank"] - 1]
        clicks = random.binomial(row["views"], looked * NOISE, len(gains))
        gains += (clicks - row["views"] * looked * NOISE) / (looked * (LIKING - NOISE)) / 5
    central = gains - gains.mean()
    assert found["variance"] == pytest.approx((central**2).mean(), rel=0.02)
    assert found["third"] == pytest.approx((central**3).mean(), rel=0.06)
    assert found["click"] == pytest.approx(1 / KNOWN.examination[8] / (LIKING - NOISE) / 5)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_the_mean_corrected_gain_of_right_documents_is_1_and_of_others_0(kind: str, seed: int) -> None:
    log = simulated(seed, 0.7, kind)
    gains = corrected_gains(count_people(log), choose(log).model)
    right = gains.filter(pl.col("document_id").is_in(list(RIGHT)))
    assert right["gain"].mean() == pytest.approx(1, abs=0.2)
    assert gains.join(right, on=["query", "document_id"], how="anti")["gain"].mean() == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize("seed", [1, 2])
def test_what_is_asked_often_does_not_say_how_much_noise_the_rest_has(seed: int) -> None:
    """600 searches that nobody looks at, each for something else, beside 60 queries that many ask."""
    often = simulated(seed, 1.0)
    first = often.filter(pl.col("search") < 600)
    once = first.with_columns(query="once " + pl.col("person"), person="once " + pl.col("person"), clicked=False)
    log = pl.concat([often, once])
    gains = corrected_gains(count_people(log), choose(log).judging)
    wrong = gains.filter(~pl.col("document_id").is_in(list(RIGHT))).group_by("query").agg(pl.col("gain").mean())
    assert wrong["gain"].mean() == pytest.approx(0, abs=0.02), "the mean of all queries, of which each counts once"


def test_a_rank_that_nobody_saw_before_is_taken_for_the_last_known() -> None:
    assert judged(crowd("d", 4, 1, rank=50))["d"]["relevance"] == judged(crowd("d", 4, 1, rank=10))["d"]["relevance"]


def test_an_empty_log_gives_no_judgments() -> None:
    counts = count_people(log_of([]))
    assert judge(counts, fit(counts)).is_empty()


def test_a_log_without_clicks_judges_everything_low() -> None:
    counts = count_people(log_of(crowd("d", 30, 0) + crowd("e", 30, 0, rank=2)))
    assert judge(counts, fit(counts))["relevance"].to_list() < [0.05, 0.05]


impressions = st.lists(
    st.tuples(
        st.sampled_from(["q1", "q2"]),
        st.sampled_from(["ann", "bob", "cid", "dan"]),
        st.sampled_from(["d1", "d2", "d3"]),
        st.integers(1, 10),
        st.booleans(),
    ),
    min_size=1,
    max_size=40,
)


@st.composite
def models(draw: st.DrawFn) -> ClickModel:
    bias, liking = draw(st.floats(0, 3)), draw(st.floats(0.05, 0.99))
    noise = draw(st.floats(0.001, 0.5)) * liking
    share = draw(st.lists(st.floats(0.001, 0.9), min_size=10, max_size=10).map(sorted))[::-1]
    return by_position(np.array([rank**-bias for rank in range(1, 11)]), liking, noise, np.array(share))


@given(impressions, models())
def test_relevance_is_a_probability_and_never_certain(rows: list[Row], model: ClickModel) -> None:
    found = judge(count_people(log_of(rows)), model)
    relevance, error = found["relevance"], found["error"]
    assert ((relevance > 0) & (relevance < 1)).all()
    assert ((error > 0) & (error <= 0.5)).all()


@pytest.mark.parametrize("name", NAMES)
@given(rows=impressions)
def test_what_is_fitted_are_probabilities_and_the_right_is_clicked_more(name: str, rows: list[Row]) -> None:
    found = fit(count_people(log_of(rows)), name)
    assert found.name == name
    assert found.examination[0] == 1
    assert (found.examination > 0).all()
    assert ((found.wrong > 0) & (found.wrong < found.right) & (found.right < 1)).all()
    assert ((found.share > 0) & (found.share < 1)).all()
    assert np.isfinite(found.later).all()


@given(impressions, st.randoms(use_true_random=False))
def test_the_order_of_rows_changes_nothing(rows: list[Row], random: Random) -> None:
    counts, other = count_people(log_of(rows)), count_people(log_of(random.sample(rows, len(rows))))
    assert judge(counts, fit(counts)).equals(judge(other, fit(other)))


@given(impressions, models(), st.data())
def test_one_more_person_who_clicks_never_lowers_relevance(
    rows: list[Row], model: ClickModel, data: st.DataObject
) -> None:
    """Somebody who saw the document where others saw it too."""
    query, _, document_id, rank, _ = data.draw(st.sampled_from(rows))
    less, more = (
        relevance_of(query, document_id, [*rows, (query, "new", document_id, rank, clicked)], model)
        for clicked in (False, True)
    )
    assert more >= less * (1 - 1e-9)


def test_a_click_further_down_never_lowers_relevance() -> None:
    """Of somebody who saw the document at the top before, where nine of ten documents are relevant."""
    model = by_position(1 / np.arange(1, 11), 0.8, 0.1, np.array([0.9, *[0.05] * 9]))
    less, more = (
        relevance_of("q", "d", [("q", "ann", "d", 1, False), ("q", "ann", "d", 5, clicked)], model)
        for clicked in (False, True)
    )
    assert more > less


def relevance_of(query: str, document_id: str, rows: list[Row], model: ClickModel) -> float:
    found = judge(count_people(log_of(rows)), model)
    return float(found.filter(query=query, document_id=document_id)["relevance"].item())
