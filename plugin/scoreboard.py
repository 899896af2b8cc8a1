"""What is true about releases, on questions that nobody of a simulation searches."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..trainer.contest import Side
from ..trainer.sample import INTERVAL_Z
from ..trainer.truth import DECIDES, DEPTH, PerQuery, measure, ranked_by, ranks_of
from .collection import Question


class Scoreboard:
    """Measures by name, of releases and of what else ranks documents; the first to be entered is the one to beat."""

    def __init__(self, ids: Sequence[str], test: Sequence[Question], watched: Sequence[str]) -> None:
        """`ids` of the documents, by row; of those `watched` the ranks are kept too."""
        self._ids = ids
        self.questions = [question.text for question in test]
        self._right = [question.right for question in test]
        self._watched = watched
        self._rows = [ids.index(id_) for id_ in watched]
        self._scores: dict[str, PerQuery] = {}
        self._ranks: dict[str, npt.NDArray[np.int64]] = {}

    def enter_side(self, name: str, side: Side) -> None:
        queries = side.queries(self.questions)
        self.enter(name, ranked_by(self._ids, side.vectors, queries))
        self._ranks[name] = ranks_of(self._rows, side.vectors, queries)

    def enter(self, name: str, ranked: Sequence[Sequence[str]]) -> None:
        """`ranked`: the ids found for each of the `questions`, best first."""
        self._scores[name] = measure(ranked, self._right)

    def means(self, name: str) -> dict[str, float]:
        """Each measure, and the change of the deciding one since the first with its 95 % interval."""
        scores = self._scores[name]
        gain, half = _mean(scores[DECIDES] - next(iter(self._scores.values()))[DECIDES])
        means = {measure_: float(values.mean()) for measure_, values in scores.items()}
        return means | {"gain": gain, "gain_half_interval": half}

    def watched(self, name: str) -> list[dict[str, Any]]:
        """For each watched document its `ranks` for the questions that it does not answer, their mean with the change
        since the first, which is negative where it rose, and the share of them that have it in the top ten.
        """
        found = []
        first = self._ranks[next(iter(self._ranks))]
        for column, id_ in enumerate(self._watched):
            wrong = np.array([id_ not in right for right in self._right])
            ranks = self._ranks[name][wrong, column]
            change, half = _mean((ranks - first[wrong, column]).astype(np.float64))
            found.append(
                {
                    "mean_rank": float(ranks.mean()),
                    "change": change,
                    "change_half_interval": half,
                    "top_ten": float((ranks <= DEPTH).mean()),
                    "ranks": ranks.tolist(),
                }
            )
        return found


def _mean(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """With half of its 95 % interval."""
    half = INTERVAL_Z * float(values.std(ddof=1)) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return float(values.mean()), half
