"""The benchmark of the click models, in a small world."""

import numpy as np
import pytest

from clickloop.trainer.click_fit import NAMES, fit
from clickloop.trainer.mined import THRESHOLDS, measure, mine, simulated
from clickloop.trainer.people import KINDS
from clickloop.trainer.tally import count_people

QUERIES, SEARCHES = 150, 1500
RIGHT = [{f"right {query}"} for query in range(QUERIES)]
# The right document stands at the top of half of the queries, and lower and lower in the others.
SHOWN = [
    [f"right {query}" if rank == max(0, query % 8 - 4) else f"wrong {(query * 7 + rank) % 400}" for rank in range(6)]
    for query in range(QUERIES)
]
RANKED = [[(document_id, 0.5 - rank / 100) for rank, document_id in enumerate(shown)] for shown in SHOWN]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_taken_by_posterior_is_right_more_often_than_what_was_clicked(kind: str) -> None:
    found = list(mine(simulated(kind, RANKED, RIGHT, SEARCHES, 1), RIGHT))
    assert [mined.model for mined in found[:-1]] == list(NAMES)
    chosen = found[-1]
    assert chosen.chosen
    assert chosen.model in NAMES
    assert chosen.at_kept > chosen.naive + 0.1
    assert chosen.naive < chosen.area <= 1
    assert chosen.coverage == sorted(chosen.coverage, reverse=True)
    assert chosen.precision[THRESHOLDS.index(0.8)] > chosen.precision[0]
    assert chosen.gain_right == pytest.approx(1, abs=0.3)
    assert chosen.gain_wrong == pytest.approx(0, abs=0.1)


def test_shares_are_those_of_the_clicked_pairs() -> None:
    """Without noise every click is right, and whatever is taken is."""
    log = simulated("position", RANKED, [{*shown} for shown in SHOWN], 300, 2)
    counts = count_people(log)
    found = measure(counts, fit(counts), [{*shown} for shown in SHOWN], chosen=False)
    assert (found.naive, found.at_kept, found.area) == (1, 1, 1)
    assert found.precision == [1.0] * len(THRESHOLDS)
    halves = measure(counts, fit(counts), [{*shown[::2]} for shown in SHOWN], chosen=False)
    assert 0 < halves.naive < 1
    assert np.isfinite(halves.gain_right)


def test_a_log_without_a_right_click_is_refused() -> None:
    counts = count_people(simulated("position", RANKED, RIGHT, 50, 3))
    with pytest.raises(ValueError, match="simulate more searches"):
        measure(counts, fit(counts), [set() for _ in SHOWN], chosen=False)
