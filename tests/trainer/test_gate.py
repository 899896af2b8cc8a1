"""The gate: never worse, over a whole life, and still willing to promote what is better."""

from collections.abc import Sequence
from itertools import pairwise
from math import sqrt
from random import Random

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import guarded_p, spread, units
from scipy.stats import norm

from clickloop.trainer.gate import (
    CHALLENGER_NIGHTS,
    Challenger,
    Decision,
    ask_people,
    decide,
    first_level,
    follow,
    follow_level,
    night_level,
    screen,
    stronger,
)
from clickloop.trainer.recipe import Promotion
from clickloop.trainer.sample import Sample
from clickloop.trainer.votes import Votes

DIALS = Promotion()
Values = npt.NDArray[np.float64]


def judged(holdout: list[float], looks: int = 0, dials: Promotion = DIALS) -> Decision:
    return decide(Sample.of(holdout), looks, dials)


def test_the_budgets_of_a_whole_life_sum_to_less_than_5_percent() -> None:
    looks = 10_000
    tail = (0.036 + 0.012) * 150 / (looks + 150)  # the levels telescope
    firsts = sum(first_level(k) for k in range(1, looks + 1))
    followed = sum(follow_level(k) for k in range(1, looks + 1))
    assert firsts + followed + tail < 0.05
    assert firsts + followed + tail == pytest.approx(0.0494)


@given(st.integers(1, 5000))
def test_all_nights_of_a_challenger_together_spend_its_own_budget(k: int) -> None:
    known, unknown = (Challenger(k, 1, Sample(), looked=looked) for looked in (True, False))
    nights = [night_level(known.budget, night) for night in range(2, CHALLENGER_NIGHTS + 1)]
    assert all(first > second > 0 for first, second in pairwise(nights))
    assert 2 * sum(nights) == pytest.approx(known.budget) == pytest.approx(follow_level(k))
    assert unknown.budget == first_level(k) + follow_level(k), "what had no first look may spend its budget later"


def test_later_looks_are_allowed_less_and_never_nothing() -> None:
    levels = [first_level(look) for look in range(8, 4000)]
    assert all(first > second > 0 for first, second in pairwise(levels))
    assert min(first_level(look) for look in range(1, 8)) > first_level(8)


def test_a_clear_gain_is_promoted() -> None:
    found = judged(spread(0.05, 0.2))
    assert (found.outcome, found.look, found.level) == ("promoted", 1, first_level(1))
    assert found.p_value <= found.level
    assert found.sample.mean == pytest.approx(0.05)
    assert found.sample.low < 0.05 < found.sample.high


@pytest.mark.parametrize(
    ("mean", "outcome"), [(-0.05, "rejected"), (-0.001, "not_enough_evidence"), (0.0, "not_enough_evidence")]
)
def test_no_gain_is_never_promoted_and_a_loss_is_rejected(mean: float, outcome: str) -> None:
    found = judged(spread(mean, 0.2))
    assert (found.outcome, found.p_value >= 0.5) == (outcome, True)


def test_a_gain_that_could_be_chance_waits_for_more_evidence() -> None:
    found = judged(spread(0.01, 0.2))
    assert (found.outcome, found.look) == ("not_enough_evidence", 1)


def test_a_real_gain_too_small_to_matter_is_rejected() -> None:
    small = spread(0.004, 0.01, 4000)
    assert guarded_p(small) < first_level(1)
    assert judged(small).outcome == "rejected"
    assert judged(small, dials=Promotion(min_effect=0.001)).outcome == "promoted"


def test_the_same_gain_needs_more_evidence_after_many_looks() -> None:
    values = spread(0.0238, 0.2)
    assert judged(values, looks=0).outcome == "promoted"
    assert judged(values, looks=2000).outcome == "not_enough_evidence"


def test_few_judged_clusters_spend_no_look() -> None:
    found = judged(spread(0.3, 0.1, 48))
    assert (found.outcome, found.look, found.level, found.p_value) == ("not_enough_evidence", 0, 0.0, 1.0)
    assert "48" in found.reasons[0]
    assert "50" in found.reasons[0]
    assert judged([]).look == judged([0.5]).look == 0


@pytest.mark.parametrize("development", [[], [0.5], [0.0] * 100, spread(0.0, 0.1), spread(-0.001, 0.1, 100)])
def test_a_candidate_that_fails_the_screen_spends_no_look(development: list[float]) -> None:
    found = screen(Sample.of(development))
    assert found is not None
    assert (found.outcome, found.look, found.level, found.p_value) == ("rejected", 0, 0.0, 1.0)


def test_people_may_be_asked_about_what_the_screen_refused_and_that_takes_a_number() -> None:
    refused = screen(Sample.of(spread(-0.01, 0.1)))
    assert refused is not None
    assert not refused.open
    found = ask_people(refused, looks=3)
    assert found.open
    assert (found.look, found.level, found.p_value, found.sample) == (4, 0.0, 1.0, Sample())
    assert found.reasons[:1] == refused.reasons
    assert "number 4" in found.reasons[-1]
    lost = screen(Sample.of(spread(-0.12, 0.1)))
    assert lost is not None
    assert ask_people(lost, looks=3) == lost, "a large loss that is certain is believed"
    assert follow(Challenger(4, 2, Sample(), told(40, 0)), DIALS).outcome == "promoted"
    assert follow(Challenger(4, 2, Sample()), DIALS).open, "nobody said anything yet"


def test_every_decision_says_why() -> None:
    outcomes = [judged(spread(mean, 0.2)) for mean in (0.05, 0.01, -0.05)]
    outcomes += [judged([0.1]), *filter(None, [screen(Sample())])]
    assert len(outcomes) == 5
    assert all(decision.reasons and all(decision.reasons) for decision in outcomes)
    assert "look 4" in " ".join(judged(spread(0.05, 0.2), looks=3).reasons)


@pytest.mark.parametrize("value", [0.0, 0.25, 0.5, -0.25])
def test_units_that_all_say_the_same_never_promote(value: float) -> None:
    found = judged([value] * 200)
    assert found.outcome != "promoted"
    assert found.p_value == 1


def nulls(seed: int, *shape: int) -> Values:
    """Differences of a candidate that is not better: most queries unchanged, the others moved either way."""
    random = np.random.default_rng(seed)
    moved = random.random(shape) < 0.4
    return np.where(moved, random.uniform(-1, 1, shape), 0.0)


def test_a_life_without_real_gains_promotes_nothing_in_95_of_100_lives() -> None:
    """300 lives of 60 nights. At p < .05 a night nearly all of them would have promoted something."""
    lives, nights = 300, 60
    holdout, development = nulls(21, lives, nights, 60), nulls(22, lives, nights, 30)
    dials = Promotion(min_effect=0)
    wrong = 0
    for life in range(lives):
        looks, promoted = 0, False
        for night in range(nights):
            if screen(Sample.of(development[life, night])) is not None:
                continue
            found = decide(Sample.of(holdout[life, night]), looks, dials)
            looks += found.look > 0
            promoted |= found.outcome == "promoted"
        wrong += promoted
        assert 0 < looks < nights
    assert wrong <= 0.05 * lives
    z = holdout.mean(axis=2) / (holdout.std(axis=2, ddof=1) / sqrt(60))
    assert (norm.sf(z) < 0.05).any(axis=1).mean() > 0.9


@given(units, st.integers(0, 1000))
def test_the_same_measurements_give_the_same_decision(holdout: list[float], looks: int) -> None:
    found = decide(Sample.of(holdout), looks, DIALS)
    assert found == decide(Sample.of(tuple(holdout)), looks, DIALS)
    assert found.look in (0, looks + 1)
    assert 0 <= found.p_value <= 1


@given(units, st.randoms(use_true_random=False))
def test_the_order_of_queries_changes_nothing(values: list[float], random: Random) -> None:
    shuffled = random.sample(values, len(values))
    assert guarded_p(shuffled) == pytest.approx(guarded_p(values), rel=1e-9)
    assert Sample.of(shuffled).mean == pytest.approx(Sample.of(values).mean, abs=1e-12)
    assert judged(shuffled).outcome == judged(values).outcome


@given(units, st.integers(0, 5000))
def test_what_promotes_is_better_and_beats_its_level(values: list[float], looks: int) -> None:
    found = judged(values, looks)
    if found.outcome == "promoted":
        assert found.sample.mean >= DIALS.min_effect
        assert found.p_value <= first_level(looks + 1)
        assert found.sample.n >= DIALS.min_queries


def test_a_candidate_that_gains_much_on_every_single_query_is_promoted() -> None:
    """Every one of 1,000 queries gains between .3 and .6."""
    values = np.random.default_rng(3).uniform(0.3, 0.6, 1000)
    assert judged(values.tolist()).outcome == "promoted"


# Challengers


def followed(
    queries: Sequence[float],
    votes: tuple[int, int, int] = (0, 0, 0),
    nights: int = 4,
    lists: Sequence[float] | None = None,
) -> Decision:
    seen = None if lists is None else Sample.of(lists)
    return follow(Challenger(3, nights, Sample.of(queries), told(*votes), lists=seen), DIALS)


def told(liked: int, disliked: int, neither: int = 0) -> Votes:
    """Of people who each ask something else."""
    return Votes.of(liked + disliked + neither, [1] * liked + [-1] * disliked)


NEUTRAL = spread(0.01, 0.4, 3000)  # a gain that could be chance


def test_a_challenger_is_promoted_when_its_nights_together_prove_it() -> None:
    found = followed(spread(0.03, 0.3, 3000))
    assert (found.outcome, found.look, found.level) == ("promoted", 3, night_level(follow_level(3), 4))
    assert found.p_value <= found.level


def test_people_prove_what_queries_cannot() -> None:
    assert followed(NEUTRAL).outcome == "not_enough_evidence"
    found = followed(NEUTRAL, (220, 100, 480))
    assert found.outcome == "promoted"
    assert "800 people" in " ".join(found.reasons)


def test_people_who_ask_the_same_prove_as_little_as_one_of_them() -> None:
    """What all agree about is one draw, for and against."""
    for lead in (400, -400):
        votes = Votes.of(800, [lead, *[1, -1] * 50])
        assert follow(Challenger(3, 4, Sample.of(NEUTRAL), votes), DIALS).open


def test_a_challenger_that_people_dislike_is_dropped_whatever_queries_say() -> None:
    assert followed(spread(0.03, 0.3, 3000), (100, 220, 480)).outcome == "rejected"


def test_a_challenger_whose_gain_became_improbable_is_dropped() -> None:
    assert followed(spread(-0.01, 0.3, 3000)).outcome == "rejected"
    assert followed(spread(0.001, 0.05, 3000)).outcome == "rejected"
    assert followed(spread(-0.01, 0.3, 3000), (168, 152, 480)).outcome == "not_enough_evidence"


def test_a_handful_of_queries_or_people_rules_nothing_out() -> None:
    assert followed([0.0] * 4).open
    assert followed([], (0, 2)).open
    assert followed([0.0, 0.001] * 20).outcome == "rejected"
    assert followed([], (0, 40)).outcome == "rejected"


def test_queries_have_no_veto_over_people() -> None:
    """What the champion did not show counts as nothing in them."""
    votes = 600, 100
    assert followed(spread(-0.05, 0.1, 3000), votes).outcome == "promoted"
    small = spread(0.004, 0.01, 6000)
    assert followed(small).outcome == "rejected", "it is less than is worth a switch"
    found = followed(small, votes)
    assert (found.outcome, found.sample) == ("promoted", told(*votes)), "however certain that is"


@pytest.mark.parametrize(
    ("lists", "outcome"),
    [
        (spread(0.03, 0.3), "promoted"),
        (spread(0.02, 0.3), "not_enough_evidence"),
        (spread(-0.01, 0.3), "not_enough_evidence"),
        (spread(-0.03, 0.3), "rejected"),
        ([0.1] * 500, "not_enough_evidence"),
        ([0.5, 0.4], "not_enough_evidence"),
        ([], "not_enough_evidence"),
    ],
    ids=["a gain", "could be chance", "could be a loss", "a loss", "no noise to measure it against", "two", "none"],
)
def test_people_promote_only_what_gains_on_the_lists_that_they_saw(lists: list[float], outcome: str) -> None:
    """One who finds nothing any more votes like one who finds it second instead of first."""
    found = followed([], (220, 100, 480), lists=lists)
    assert (found.outcome, found.by) == (outcome, "people" if outcome == "promoted" else found.by)
    assert ("on the lists that people saw" in " ".join(found.reasons)) == (len(lists) > 1)


def test_clicks_on_the_lists_prove_nothing_without_votes() -> None:
    assert followed([], (160, 140), lists=spread(0.1, 0.3)).open


@pytest.mark.parametrize("votes", [(0, 0), (20, 5), (220, 100)])
def test_what_loses_on_the_lists_of_enough_people_is_dropped_whatever_else_is_said(votes: tuple[int, int]) -> None:
    for mean, loses in ((0.0, False), (-0.03, True)):
        found = followed(spread(0.03, 0.3, 3000), votes, lists=spread(mean, 0.3))
        assert found.outcome == ("rejected" if loses and sum(votes) >= 30 else "promoted")


def test_a_challenger_is_not_followed_for_ever() -> None:
    assert followed(NEUTRAL, nights=CHALLENGER_NIGHTS - 1).outcome == "not_enough_evidence"
    assert followed(NEUTRAL, nights=CHALLENGER_NIGHTS).outcome == "rejected"
    proof = spread(0.1, 0.3, 3000)
    assert followed(proof, nights=CHALLENGER_NIGHTS).outcome == "promoted"
    assert followed(proof, nights=CHALLENGER_NIGHTS + 1).outcome == "rejected", "no level is left"


def test_the_strongest_candidate_is_followed() -> None:
    weak, strong = Sample.of(spread(0.01, 0.3)), Sample.of(spread(0.02, 0.3))
    assert stronger(weak, None)
    assert stronger(strong, Challenger(1, 2, weak))
    assert not stronger(weak, Challenger(1, 2, strong))
    assert not stronger(weak, Challenger(1, 2, Sample(), told(60, 20)))
    assert stronger(weak, Challenger(1, 2, Sample(), told(60, 20), lists=Sample.of(spread(0.001, 0.3))))
