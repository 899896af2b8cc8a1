"""The click model: what it says about simulated people, whose examination and taste are known."""

from functools import cache
from random import Random
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from impressions import SCHEMA, Row, log_of

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
    evidence,
    exposure,
)
from clickloop.trainer.clicks import choose, corrected_gains, judge
from clickloop.trainer.people import KINDS, people
from clickloop.trainer.tally import count_people

SHARE = 0.05  # of shown documents that are relevant
LIKING, NOISE = 0.8, 0.1
RIGHT = {"d0", "d1"}
QUERIES, DOCUMENTS, SESSIONS = 60, 12, 3_000


def by_position(examination: Floats, liking: float, noise: float, share: Floats) -> ClickModel:
    looks = np.repeat(examination[:, None], GAPS, axis=1)
    nobody = pl.DataFrame(schema={"document_id": pl.String, "queries": pl.UInt32})
    prior = Prior(np.log(share / (1 - share)), np.zeros(FEATURES), np.zeros(FEATURES), nobody)
    return ClickModel("position", liking * looks, noise * looks, np.zeros(LEVELS), prior)


KNOWN = by_position(1 / np.arange(1, 11), LIKING, NOISE, np.full(10, SHARE))


def scored(seed: int, size: float) -> pl.DataFrame:
    """A simulated log with scores, by which right documents stand out of their lists by `size` on average."""
    log, random = simulated(seed, 1.0), np.random.default_rng(seed)
    right = log["document_id"].is_in(list(RIGHT)).to_numpy()
    return log.with_columns(score=pl.Series(0.3 + size * right + random.normal(scale=0.1, size=len(log))))


def crowd(document_id: str, views: int, clicks: int, rank: int = 1) -> list[Row]:
    """`views` people saw the document at this rank, `clicks` of them clicked it."""
    return [("q", f"{document_id} {rank} {i}", document_id, rank, i < clicks) for i in range(views)]


def judged(rows: list[Row], model: ClickModel = KNOWN) -> dict[str, dict[str, Any]]:
    """Judgments by document id."""
    found = judge(count_people(log_of(rows)), model)
    return {row["document_id"]: row for row in found.rows(named=True)}


@cache
def simulated(seed: int, bias: float, kind: str = "position") -> pl.DataFrame:
    """Everybody asks once. Each query has two right documents; its ranking changes a little from search to search."""
    random = np.random.default_rng(seed)
    crowd = people(kind, seed, bias=bias)
    rows = []
    ranking = {query: random.permutation(DOCUMENTS) for query in range(QUERIES)}
    for person, query in enumerate(crowd.queries(SESSIONS, QUERIES)):
        moved = np.argsort(np.arange(DOCUMENTS) + random.normal(scale=3, size=DOCUMENTS))
        shown = [f"d{document}" for document in ranking[query][moved][:10]]
        clicked = crowd.clicks(shown, RIGHT)
        rows += [(person, f"q{query}", f"p{person}", d, rank, rank in clicked) for rank, d in enumerate(shown, start=1)]
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("bias", [0.5, 1.0, 1.5])
def test_examination_is_recovered_from_clicks_alone(seed: int, bias: float) -> None:
    found = fit(count_people(simulated(seed, bias)))
    expected = np.arange(1, 11) ** -bias
    assert np.abs(found.examination - expected).max() < 0.1, found.examination


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
def test_liking_noise_and_the_share_of_right_documents_are_recovered(seed: int) -> None:
    log = simulated(seed, 1.0)
    found = fit(count_people(log))
    assert (found.right[0, 0], found.wrong[0, 0]) == pytest.approx((0.9, 0.1), abs=0.05)
    best = log.group_by("query", "document_id").agg(pl.col("rank").min(), pl.col("document_id").first().alias("d"))
    right = best.group_by("rank").agg(pl.col("d").is_in(list(RIGHT)).mean(), pl.len()).filter(pl.col("len") >= 50)
    for rank, share, _count in right.rows():
        assert found.share[rank - 1] == pytest.approx(share, abs=0.15)


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


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_the_mean_corrected_gain_of_right_documents_is_1_and_of_others_0(kind: str, seed: int) -> None:
    log = simulated(seed, 0.7, kind)
    gains = corrected_gains(count_people(log), choose(log).model)
    right = gains.filter(pl.col("document_id").is_in(list(RIGHT)))
    assert right["gain"].mean() == pytest.approx(1, abs=0.2)
    assert gains.join(right, on=["query", "document_id"], how="anti")["gain"].mean() == pytest.approx(0, abs=0.05)


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


def gains_by_rank(log: pl.DataFrame, name: str) -> dict[tuple[bool, bool], float]:
    """Mean corrected gain per impression, by (right, at one of the first three ranks)."""
    counts = count_people(log)
    model = fit(counts, name)
    # Each row alone, as if it were all that is known of its pair.
    alone = counts.with_columns(document_id=pl.col("document_id") + "@" + pl.int_range(pl.len()).cast(pl.String))
    gains = alone.join(corrected_gains(alone, model), on=["query", "document_id"]).with_columns(
        right=pl.col("document_id").str.split("@").list.first().is_in(list(RIGHT)), top=pl.col("rank") <= 3
    )
    mean = (pl.col("gain") * pl.col("views")).sum() / pl.col("views").sum()
    return {(right, top): gain for right, top, gain in gains.group_by("right", "top").agg(mean).rows()}


@pytest.mark.parametrize(("kind", "name"), [("position", "position"), ("cascade", "browsing"), ("trust", "trust")])
def test_the_model_of_the_people_corrects_gains_at_the_top_and_below(kind: str, name: str) -> None:
    for (right, _top), gain in gains_by_rank(simulated(1, 0.7, kind), name).items():
        assert gain == pytest.approx(float(right), abs=0.25 if right else 0.05)


def test_a_model_of_other_people_does_not() -> None:
    """What the tests above would find if the choice were a wrong one."""
    gains = gains_by_rank(simulated(1, 0.7, "position"), "click rate")
    assert gains[True, True] - gains[True, False] > 0.4


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_people_who_read_from_the_top_are_told_from_others(seed: int) -> None:
    assert choose(simulated(seed, 1.0, "cascade")).model.name == "browsing"
    assert choose(simulated(seed, 1.0, "position")).model.name != "click rate"
    assert choose(simulated(seed, 0.0, "position")).model.name != "browsing"


def test_the_choice_says_how_likely_each_model_found_what_was_held_out() -> None:
    log = simulated(1, 1.0, "cascade")
    choice = choose(log)
    assert set(choice.held_out) == set(NAMES)
    assert max(choice.held_out, key=lambda name: choice.held_out[name]) == choice.model.name
    rate = log["clicked"].mean()
    assert isinstance(rate, float)
    guessed = rate * np.log(rate) + (1 - rate) * np.log(1 - rate)
    assert all(guessed < told < 0 for told in choice.held_out.values())
    assert choose(log.sample(fraction=1, shuffle=True, seed=1)).held_out == choice.held_out


def test_what_explains_nothing_more_is_not_chosen() -> None:
    """Of people who never click each model foresees nearly the same."""
    assert choose(log_of(crowd("d", 200, 0))).model.name == NAMES[0]


def test_nothing_held_out_gives_no_likelihoods() -> None:
    for rows in ([], crowd("d", 1, 1)):
        choice = choose(log_of(rows))
        assert choice.held_out == {}
        assert choice.model.name == NAMES[0]


def with_levels(rows: list[Row], levels: dict[str, int]) -> pl.DataFrame:
    """A log in which the clicks of these people led further."""
    log = log_of(rows)
    level = pl.col("person").replace_strict(levels, default=1, return_dtype=pl.Int64)
    return log.with_columns(level=pl.when("clicked").then(level).otherwise(0))


def test_a_purchase_says_more_than_a_cart_and_a_cart_more_than_a_click() -> None:
    rows = [row for d in ("clicked", "carted", "bought") for row in crowd(d, 3, 1)]
    log = with_levels(rows, {"carted 1 0": 2, "bought 1 0": 3})
    counts = count_people(log)
    found = {row["document_id"]: row["relevance"] for row in judge(counts, fit(counts)).rows(named=True)}
    assert found["clicked"] < found["carted"] < found["bought"]


def test_what_a_later_action_says_is_learned_from_the_log() -> None:
    """People buy what is right nine times as often as what is wrong, whatever the rank."""
    random = np.random.default_rng(1)
    log = simulated(1, 1.0)
    buys = random.random(len(log)) < np.where(log["document_id"].is_in(list(RIGHT)), 0.45, 0.05)
    log = log.with_columns(level=pl.col("clicked").cast(pl.Int64) * np.where(buys, 3, 1))
    model = fit(count_people(log))
    assert model.later[2] == pytest.approx(np.log(9), abs=0.4)
    assert model.later[0] == pytest.approx(np.log(0.55 / 0.95), abs=0.2)
    assert model.later[1] == 0.0  # no carts in this log


def test_without_later_actions_a_click_is_a_click() -> None:
    log = simulated(1, 1.0)
    assert fit(count_people(log)).later.tolist() == [0.0, 0.0, 0.0]
    assert count_people(log).equals(count_people(log.with_columns(level=pl.col("clicked").cast(pl.Int64))))


def test_what_is_shown_for_everything_is_less_likely_meant() -> None:
    """Learned, not assumed: in the second log what is shown for every query is right for it."""
    random = np.random.default_rng(3)
    for right, sign in (("own", -1), ("hub", 1)):
        rows = []
        for search in range(3000):
            query = int(random.integers(600))
            for rank, kind in enumerate(random.permutation(["own", "hub"]), 1):
                clicked = random.random() < (0.9 if kind == right else 0.1) / rank
                rows.append(
                    (search, f"q{query}", f"p{search}", f"own{query}" if kind == "own" else "hub", rank, clicked)
                )
        counts = count_people(pl.DataFrame(rows, schema=SCHEMA, orient="row"))
        assert sign * fit(counts).prior.weights[0] > 0.1


def test_pairs_that_look_the_same_are_fitted_as_one() -> None:
    counts = count_people(simulated(2, 1.0).filter(pl.col("search") < 200))
    each, kinds = (evidence(counts, exposure(counts), alike) for alike in (False, True))
    assert len(kinds.best) < len(each.best)
    assert kinds.times.sum() == len(each.best)
    for name in ("views", "clicks"):
        assert (getattr(kinds, name) * kinds.times[kinds.pair]).sum() == getattr(each, name).sum()
    assert np.allclose(kinds.times @ kinds.features, each.features.sum(0))
    assert np.allclose(kinds.times @ kinds.levels, each.levels.sum(0))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_what_stands_out_of_its_list_is_sooner_believed(seed: int) -> None:
    def told_apart(log: pl.DataFrame) -> float:
        """The mean posterior of right documents less that of others, among those that one person clicked."""
        found = judge(count_people(log), choose(log).model).filter(pl.col("clicks") == 1)
        right = pl.col("document_id").is_in(list(RIGHT))
        return float(found.filter(right)["relevance"].mean()) - float(found.filter(~right)["relevance"].mean())  # type: ignore[arg-type]

    some = simulated(seed, 1.0).filter(pl.col("search") < 300)
    telling = scored(seed, 0.2).filter(pl.col("search") < 300)
    assert told_apart(telling) > told_apart(some)


def test_scores_that_say_nothing_change_little() -> None:
    log, noise = simulated(1, 1.0), scored(1, 0.0)
    plain, mute = (judge(count_people(each), choose(each).model)["relevance"] for each in (log, noise))
    assert float((plain - mute).abs().mean()) < 0.02  # type: ignore[arg-type]
