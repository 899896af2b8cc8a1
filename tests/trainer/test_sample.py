"""Evidence as sums: never more certain than it may be."""

from math import log, sqrt

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from samples import guarded_p, spread, units
from scipy.stats import norm

from clickloop.trainer.gate import first_level
from clickloop.trainer.sample import Sample


def test_units_that_all_say_the_same_but_for_rounding_never_promote() -> None:
    values = np.random.default_rng(4).uniform(0.01, 1, 50)
    assert [guarded_p([float(value)] * 228) for value in values] == [1.0] * 50


def test_left_skew_does_not_fool_the_guard() -> None:
    """2 % of the queries fall by 1, 25 % gain .08: the mean is 0, and a plain z-test is wrong 32 times too often."""
    random = np.random.default_rng(11)
    draws = 4_000
    chance = random.random((draws, 1000))
    values = np.where(chance < 0.02, -1.0, np.where(chance < 0.27, 0.08, 0.0))
    z = values.mean(axis=1) / (values.std(axis=1, ddof=1) / sqrt(1000))
    assert (norm.sf(z) <= 5e-5).sum() >= 1
    assert not any(guarded_p(row) <= 5e-5 for row in values)


@pytest.mark.parametrize("n", [50, 100, 200, 400])
def test_a_few_queries_may_lack_just_the_losses_that_make_the_mean_0(n: int) -> None:
    """The same null: of 100 queries 13 in 100 samples hold no loss, and look like a certain gain."""
    random = np.random.default_rng(12)
    draws = 4_000
    chance = random.random((draws, n))
    values = np.where(chance < 0.02, -1.0, np.where(chance < 0.27, 0.08, 0.0))
    found = np.array([guarded_p(row) for row in values])
    for level in (first_level(1), 0.01, 0.05):
        assert (found <= level).sum() <= draws * level + 4 * sqrt(draws * level)


def test_the_guard_costs_little_where_the_plain_test_is_right() -> None:
    values = spread(3.5 * 0.2 / sqrt(1000), 0.2)
    assert norm.sf(3.5) <= guarded_p(values) < 2 * norm.sf(3.5)
    assert guarded_p(values) == pytest.approx(norm.sf(3.5) * np.exp(3.5**4 / 4000), rel=1e-5)


def test_the_guard_charges_for_left_skew_only() -> None:
    values = np.random.default_rng(2).exponential(size=1000) ** 1.5
    values = 0.1 * (values - values.mean()) / values.std(ddof=1)
    gain = 4 * 0.1 / sqrt(1000)
    right, left = guarded_p((values + gain).tolist()), guarded_p((gain - values).tolist())
    assert right == pytest.approx(norm.sf(4) * np.exp(4**4 / 4000) + (1 + gain) ** -1000)
    assert log(left) > log(right) + 1


@given(units, st.integers(0, 64).map(lambda i: i / 64))
@example([0.0, 1 / 64] * 30, 0.5)
def test_a_larger_gain_for_every_query_is_never_less_certain(values: list[float], gain: float) -> None:
    assert guarded_p([value + gain for value in values]) <= guarded_p(values) * (1 + 1e-9)


def test_nothing_is_more_certain_than_what_its_units_must_vary_by() -> None:
    values = spread(0.1, 0.2)
    plain, n = Sample.of(values), len(values)
    wide = Sample.of(values, variance=0.16 * n)
    assert wide.error == pytest.approx(0.4 / sqrt(n - 1))
    assert wide.z == pytest.approx(plain.z / 2, rel=0.01)
    assert Sample.of(values, variance=0.01 * n).error == plain.error, "what was drawn varies more"
    leaning = Sample.of(values, third=-0.04 * n)
    assert leaning.lean == pytest.approx(5, rel=0.01)
    assert leaning.p_value > plain.p_value
    assert Sample.of(values, third=0.04 * n).p_value == plain.p_value, "gains that are large are no danger"


def test_rare_losses_that_are_larger_need_more_units_to_be_ruled_out() -> None:
    values = spread(0.1, 0.01, 100)
    assert Sample.of(values).p_value == pytest.approx(1.1**-100, rel=1e-3)
    assert Sample.of(values, losses=[0.5] * 100).p_value == Sample.of(values).p_value, "1 at least"
    assert Sample.of(values, losses=[4.0] * 100).p_value == pytest.approx(1.025**-100, rel=1e-3)
    assert Sample.of(values, losses=[1.0] * 50 + [4.0] * 50).loss == pytest.approx((1 + 64) / (1 + 16))


@given(units, units)
def test_samples_of_other_units_add_up(first: list[float], second: list[float]) -> None:
    both, whole = Sample.of(first) + Sample.of(second), Sample.of([*first, *second])
    assert (both.n, both.largest) == (whole.n, whole.largest)
    assert both.mean == pytest.approx(whole.mean, abs=1e-12)
    assert both.error == pytest.approx(whole.error, abs=1e-9)
    assert both.p_value == pytest.approx(whole.p_value, rel=1e-6)
    assert Sample() + whole == whole
