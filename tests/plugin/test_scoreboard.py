"""What a simulation says is true: measures, gains with their interval, and the ranks of watched documents."""

import math

import numpy as np
import numpy.typing as npt
import pytest

from clickloop.plugin.collection import Question
from clickloop.plugin.scoreboard import Scoreboard
from clickloop.retriever.types import Release
from clickloop.trainer.contest import Side

IDS = [f"d{number}" for number in range(12)]
TEST = [Question(f"{number}", frozenset({f"d{number}"})) for number in range(6)]


def side(documents: npt.NDArray[np.float32]) -> Side:
    """Asked for "n", it compares with unit vector n."""
    release = Release("any", None, 12, "{text}", "", "", 32, "onnx", {}, {}, 1.0)
    return Side(release, np.arange(12), documents, lambda text: np.eye(12, dtype=np.float32)[int(text)])


@pytest.fixture
def board() -> Scoreboard:
    """First, a model that knows every answer and has d11 second; then one that has it first."""
    board = Scoreboard(IDS, TEST, ["d11", "d0"])
    good = np.eye(12, dtype=np.float32)
    good[11] = 0.5
    pushed = good.copy()
    pushed[11] = 2.0
    board.enter_side("first", side(good))
    board.enter_side("pushed", side(pushed))
    return board


def test_gains_are_changes_since_the_first(board: Scoreboard) -> None:
    first, pushed = board.means("first"), board.means("pushed")
    assert (first["nDCG@10"], first["gain"], first["gain_half_interval"]) == (1, 0, 0)
    assert pushed["gain"] == pytest.approx(1 / math.log2(3) - 1)
    assert pushed["gain_half_interval"] == pytest.approx(0)
    board.enter("half", [["d0"], ["d1"], ["d2"], [], [], []])
    half = board.means("half")
    assert half["gain"] == pytest.approx(-0.5)
    assert half["gain_half_interval"] == pytest.approx(1.96 * math.sqrt(0.3 / 6), rel=0.01)


def test_watched_documents_are_ranked_for_what_they_do_not_answer(board: Scoreboard) -> None:
    pushed, other = board.watched("pushed")
    assert pushed["ranks"] == [1] * 6
    assert (pushed["mean_rank"], pushed["change"], pushed["change_half_interval"]) == (1, -1, 0)
    assert pushed["top_ten"] == 1
    assert len(other["ranks"]) == 5, "d0 answers one of the questions"
    assert board.watched("first")[0]["ranks"] == [2] * 6


def test_nothing_watched_is_nothing_said() -> None:
    board = Scoreboard(IDS, TEST, [])
    board.enter_side("first", side(np.eye(12, dtype=np.float32)))
    assert board.watched("first") == []
