"""The whole gate on simulated clicks, in a small world where better and worse are made by hand."""

import numpy as np
import pytest

from clickloop.retriever.serving import unit
from clickloop.retriever.types import Vectors
from clickloop.trainer.contenders import Contender
from clickloop.trainer.recipe import Recipe
from clickloop.trainer.rehearsal import Habits, Rehearsal

DOCUMENTS, QUERIES, DIMENSION = 400, 900, 24
RIGHT = [frozenset({query % DOCUMENTS}) for query in range(QUERIES)]
WORDS = [f"{'abcdefghij'[query // 100]}{query} asks" for query in range(QUERIES)]


def blurred(name: str, size: float, seed: int) -> Contender:
    """Queries point at their right document, off by noise of this length."""
    documents = unit(np.random.default_rng(0).normal(size=(DOCUMENTS, DIMENSION)).astype(np.float32))
    noise = unit(np.random.default_rng(seed).normal(size=(QUERIES, DIMENSION)).astype(np.float32))
    queries: Vectors = unit(documents[[query % DOCUMENTS for query in range(QUERIES)]] + size * noise)
    return Contender(name, documents, queries)


@pytest.fixture(scope="module")
def stage() -> Rehearsal:
    habits = Habits(searches=1500, shown=10, bias=0.5, noise=0.05)
    return Rehearsal(DOCUMENTS, WORDS, RIGHT, blurred("present", 1.5, 1), Recipe(), habits, seed=1)


@pytest.mark.parametrize("traffic", [0.0, 0.3])
def test_a_clearly_better_model_is_promoted_and_its_gain_is_seen(stage: Rehearsal, traffic: float) -> None:
    lived = stage.live(blurred("better", 1.0, 2), 4, traffic)
    assert lived.true > 0.1
    assert lived.night is not None
    assert lived.estimates[-1].low < lived.true
    assert lived.estimates[-1].mean > 0.03


@pytest.mark.parametrize("traffic", [0.0, 0.3])
def test_worse_models_and_the_same_one_are_never_promoted(stage: Rehearsal, traffic: float) -> None:
    for contender in (blurred("worse", 2.0, 3), blurred("as good", 1.5, 4), blurred("the same", 1.5, 1)):
        lived = stage.live(contender, 3, traffic)
        assert lived.true < 0.03
        assert lived.night is None, lived


def test_the_same_seed_gives_the_same_life(stage: Rehearsal) -> None:
    assert stage.live(blurred("better", 1.2, 2), 2, 0.3) == stage.live(blurred("better", 1.2, 2), 2, 0.3)


def test_people_who_see_both_tell_what_they_prefer(stage: Rehearsal) -> None:
    """A model that is a little better is followed first, and meanwhile people see its results."""
    lived = stage.live(blurred("a little better", 1.47, 1), 2, 1.0)
    assert lived.true > 0
    assert lived.people.n > 100
    assert lived.people.mean > 0
