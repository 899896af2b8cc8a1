"""The whole gate on simulated clicks, in a small world where better and worse are made by hand."""

from dataclasses import replace

import numpy as np
import pytest

from clickloop.retriever.serving import unit
from clickloop.retriever.types import Vectors
from clickloop.trainer.contenders import Contender
from clickloop.trainer.recipe import Recipe
from clickloop.trainer.rehearsal import Habits, Rehearsal

DOCUMENTS, QUERIES, DIMENSION = 400, 900, 24


def blurred(name: str, size: float, seed: int, queries: int = QUERIES) -> Contender:
    """Queries point at their right document, off by noise of this length."""
    documents = unit(np.random.default_rng(0).normal(size=(DOCUMENTS, DIMENSION)).astype(np.float32))
    noise = unit(np.random.default_rng(seed).normal(size=(queries, DIMENSION)).astype(np.float32))
    pointing: Vectors = unit(documents[[query % DOCUMENTS for query in range(queries)]] + size * noise)
    return Contender(name, documents, pointing)


def staged(searches: int, queries: int = QUERIES) -> Rehearsal:
    words = [f"{'abcdefghij'[query // 100 % 10]}{query} asks" for query in range(queries)]
    right = [frozenset({query % DOCUMENTS}) for query in range(queries)]
    habits = Habits(searches=searches, shown=10, bias=0.5, noise=0.05)
    return Rehearsal(DOCUMENTS, words, right, blurred("present", 1.5, 1, queries), Recipe(), habits, seed=1)


@pytest.fixture(scope="module")
def stage() -> Rehearsal:
    return staged(1500)


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


def test_people_promote_nothing_that_forgets_more_than_it_learns() -> None:
    """It is better for most queries, and does not find a third of the documents any more: votes count a loss like a
    small one.
    """
    queries = 4000
    learned, random = blurred("forgetful", 0.8, 2, queries), np.random.default_rng(5)
    forgotten, nonsense = random.random(DOCUMENTS) < 0.33, random.normal(size=(DOCUMENTS, DIMENSION))
    documents = np.where(forgotten[:, None], unit(nonsense.astype(np.float32)), learned.documents)
    lived = staged(5000, queries).live(replace(learned, documents=documents), 2, traffic=1.0)
    assert lived.true < 0
    assert lived.people.p_value < 1e-6, "which would have promoted it"
    assert lived.night is None
