"""Fitting click models and choosing one: on simulated people, whose habits are known."""

import numpy as np
import polars as pl
import pytest
from impressions import RIGHT, SCHEMA, Row, crowd, log_of, scored, simulated

from clickloop.trainer.click_fit import NAMES, fit
from clickloop.trainer.click_models import (
    evidence,
    exposure,
)
from clickloop.trainer.clicks import choose, corrected_gains, judge
from clickloop.trainer.tally import count_people


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("bias", [0.5, 1.0, 1.5])
def test_examination_is_recovered_from_clicks_alone(seed: int, bias: float) -> None:
    found = fit(count_people(simulated(seed, bias)))
    expected = np.arange(1, 11) ** -bias
    assert np.abs(found.examination - expected).max() < 0.1, found.examination


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_liking_noise_and_the_share_of_right_documents_are_recovered(seed: int) -> None:
    log = simulated(seed, 1.0)
    found = fit(count_people(log))
    assert (found.right[0, 0], found.wrong[0, 0]) == pytest.approx((0.9, 0.1), abs=0.05)
    best = log.group_by("query", "document_id").agg(pl.col("rank").min(), pl.col("document_id").first().alias("d"))
    right = best.group_by("rank").agg(pl.col("d").is_in(list(RIGHT)).mean(), pl.len()).filter(pl.col("len") >= 50)
    for rank, share, _count in right.rows():
        assert found.share[rank - 1] == pytest.approx(share, abs=0.15)


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


def seldom(seed: int, liking: float, noise: float) -> pl.DataFrame:
    """People who look at rank r with r^-.5, at one of 1,000 queries each; the ids of right documents begin with "r"."""
    random = np.random.default_rng(seed)
    share = np.array([0.4, 0.15, 0.08, 0.06, 0.05, 0.04, 0.04, 0.03, 0.03, 0.03])
    right = random.random((1000, 10)) < share
    query = random.integers(1000, size=4000)
    chance = np.where(right[query], liking, noise) * np.arange(1.0, 11) ** -0.5
    clicked = random.random(chance.shape) < chance
    return pl.DataFrame(
        {
            "search": np.repeat(np.arange(4000), 10),
            "query": np.repeat(query, 10).astype(str),
            "person": np.repeat(np.arange(4000), 10).astype(str),
            "document_id": [f"{'r' if right[q, r] else 'w'}{q}-{r}" for q in query for r in range(10)],
            "rank": np.tile(np.arange(1, 11), 4000),
            "clicked": clicked.ravel(),
        }
    )


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(("liking", "noise"), [(0.3, 0.04), (0.2, 0.03), (0.1, 0.01), (0.08, 0.003)])
def test_people_who_seldom_click_are_not_taken_for_people_whom_nothing_at_the_top_pleases(
    liking: float, noise: float, seed: int
) -> None:
    counts = count_people(seldom(seed, liking, noise))
    model = fit(counts)
    assert liking / 2 < model.right[0, 0] < 2 * liking
    assert model.share[0] > 0.1
    gains = corrected_gains(counts, model).with_columns(rank=pl.col("document_id").str.split("-").list.last())
    first, second = (gains.filter(pl.col("rank") == rank)["gain"].mean() for rank in ("0", "1"))
    assert first > second  # type: ignore[operator]
    mined = judge(counts, model).filter((pl.col("clicks") > 0) & (pl.col("relevance") >= 0.5))["document_id"]
    assert mined.str.starts_with("r").mean() > 0.7  # type: ignore[operator]
    assert len(mined) > 40


@pytest.mark.parametrize("name", NAMES)
def test_clicks_rarer_than_one_in_twenty_are_fitted_too(name: str) -> None:
    model = fit(count_people(seldom(1, 0.03, 0.002)), name)
    assert 0.03 / 2 < model.right[0, 0] < 3 * 0.03


def test_few_searches_of_people_who_click_much_stay_near_the_usual_liking() -> None:
    model = fit(count_people(log_of([row for d in "abc" for row in crowd(d, 3, 3)])))
    assert model.right[0, 0] == pytest.approx(0.8, abs=0.05)
