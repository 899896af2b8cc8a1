"""Short lives of the gate: the simulations of the benchmarks, small enough to run always."""

import numpy as np
import pytest

from clickloop.trainer.gate import first_level
from clickloop.trainer.lives import NARROW, WIDE, Differences, Rare, World, power, wrong_lives
from clickloop.trainer.recipe import Promotion
from clickloop.trainer.sample import Sample

DIALS = Promotion(min_effect=0)


@pytest.mark.parametrize(
    ("differences", "mean", "sd"),
    [
        (WIDE, 0.0, 0.26),
        (NARROW, 0.0, 0.10),
        (Differences(mean=0.03), 0.03, 0.26),
        (Differences(changed=0.17, reach=0.42, mean=0.015), 0.015, 0.10),
        (Differences(skewed=True), 0.0, 0.147),
    ],
)
def test_differences_have_the_mean_and_spread_they_are_named_for(
    differences: Differences, mean: float, sd: float
) -> None:
    values = differences.draw(np.random.default_rng(1), 1_000_000)
    assert values.mean() == pytest.approx(mean, abs=0.001)
    assert values.std() == pytest.approx(sd, rel=0.03)


def test_queries_of_a_cluster_are_correlated() -> None:
    """Means of 5 queries with correlation 1/2 have .6 of the variance of one query."""
    values = Differences(cluster=5).draw(np.random.default_rng(1), 200_000)
    assert values.var() == pytest.approx(0.6 * 0.26**2, rel=0.05)


@pytest.mark.parametrize("rare", [Rare(), Rare(first=9, up=0.4), Rare(noise=0.02), Rare(noise=0.0)])
def test_rare_losses_are_worse_and_vary_by_noise_at_least(rare: Rare) -> None:
    units = rare.units(np.random.default_rng(1), 400_000)
    values = units[:, 0]
    assert -0.01 < values.mean() < 0
    assert 7 * rare.noise * values.var() <= units[:, 1].mean(), "of 10 % noise comes nearly all"
    assert units[:, 1].mean() < values.var()
    assert ((values - values.mean()) ** 3).mean() < units[:, 2].mean() <= 0
    assert units[:, 3].min() >= 1


@pytest.mark.parametrize("n", [50, 100, 200])
@pytest.mark.parametrize("noise", [0.1, 0.02, 0.0])
def test_losses_that_are_seldom_clicked_fool_nobody(noise: float, n: int) -> None:
    """Of 50 queries, as a small service has them, many samples hold no click on what a candidate lost."""
    draws = 2_000
    nights = Rare(noise).units(np.random.default_rng(2), draws * n).reshape(draws, n, 4)
    found = np.array([Sample.of(night[:, 0], *night[:, 1:3].sum(axis=0), night[:, 3]).p_value for night in nights])
    for level in (first_level(1), 0.01, 0.05):
        assert (found <= level).sum() <= draws * level + 4 * np.sqrt(draws * level)


def test_they_fool_whoever_goes_by_what_was_drawn_alone() -> None:
    """So that the test above asks for something."""
    nights = Rare().units(np.random.default_rng(2), 2_000 * 50)[:, 0].reshape(2_000, 50)
    found = np.array([Sample.of(night).p_value for night in nights])
    assert (found <= first_level(1)).mean() > 20 * first_level(1)


def test_lives_without_gains_promote_next_to_nothing() -> None:
    world = World(reused=0.5, kept=0.7, people=100)
    assert wrong_lives(world, (60,), 100, DIALS)[0] <= 0.03


def test_a_small_gain_is_found_within_two_weeks() -> None:
    world = World(NARROW, Differences(changed=0.17, reach=0.42, mean=0.01), blocks=10)
    first, fortnight = power(world, 0, (1, 14), 100, DIALS)
    assert first < 0.5
    assert fortnight >= 0.9


def test_a_truly_better_model_is_not_counted_as_wrong() -> None:
    world = World(better=Differences(mean=0.05), better_nights=1.0)
    assert wrong_lives(world, (5,), 50, DIALS) == [0.0]
