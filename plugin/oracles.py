"""What a simulation knows and its loop does not, and what a model becomes that is taught by it."""

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence

import orjson

from ..retriever.releases import write_whole
from ..trainer.snapshot import cluster_of
from ..trainer.split import draw
from ..trainer.truth import School, taught_by
from .cache import cached, with_code

Pairs = set[tuple[str, str]]  # a query's text and a document's id


class Known:
    """What honest people searched, saw and clicked over all nights, and which of it is right."""

    def __init__(self, right: Mapping[str, Collection[str]], held_out: float) -> None:
        """`right` by the text of a query; the `held_out` share of all query clusters judges and does not teach."""
        self._right = right
        self._teaching = {text for text in right if draw(cluster_of(text)) >= held_out}
        self._searched: set[str] = set()
        self._shown: Pairs = set()
        self._clicked: Pairs = set()

    def saw(self, text: str, shown: Collection[str], clicked: Collection[str]) -> None:
        self._searched.add(text)
        self._shown.update((text, id_) for id_ in shown)
        self._clicked.update((text, id_) for id_ in clicked)

    def lessons(self) -> dict[str, Pairs]:
        """Perfect lessons by name, each of them part of the next: what takes longest comes last."""
        right = self._true_pairs()
        return {
            "clicked": self._teachable(right & self._clicked),
            "shown": self._teachable(right & self._shown),
            "searched by those who teach": self._teachable(right),
            "all that was searched": right,
        }

    def mined(self, pairs: Collection[tuple[str, str]]) -> dict[str, float]:
        """How many of the mined pairs are right, and how many of the right ones that teachers clicked were mined."""
        found, right, clicked = set(pairs), self._true_pairs(), self._teachable(self._clicked)
        return {
            "pairs": len(found),
            "precision": len(found & right) / max(len(found), 1),
            "coverage": len(found & right & clicked) / max(len(right & clicked), 1),
            "clicked_pairs": len(clicked),
            "clicked_precision": len(clicked & right) / max(len(clicked), 1),
        }

    def _true_pairs(self) -> Pairs:
        return {(text, id_) for text in self._searched for id_ in self._right[text]}

    def _teachable(self, pairs: Pairs) -> Pairs:
        return {pair for pair in pairs if pair[0] in self._teaching}


def oracle(
    pairs: Pairs, school: School, questions: Sequence[str], progress: Callable[[float], None]
) -> list[list[str]]:
    """What the model that these pairs teach finds for each question, kept for other simulations. Raises Skipped where
    they are too few.
    """
    path = cached("simulate", _key(pairs, school, questions) + ".json")
    if not path.exists():
        write_whole(path, orjson.dumps(taught_by(pairs, school, questions, progress)))
    ranked: list[list[str]] = orjson.loads(path.read_bytes())
    return ranked


def _key(pairs: Pairs, school: School, questions: Sequence[str]) -> str:
    """Of everything that the training and the measuring depend on."""
    recipe, lessons = school.recipe, school.lessons
    found = hashlib.sha256(orjson.dumps(sorted(school.finder.release.checksums.items())))
    found.update(f"{recipe.training!r} {recipe.mining!r} {recipe.seed}".encode())
    development = [(lessons.wordings[pair.query], pair.document_id) for pair in lessons.development]
    clicked = sorted((query, sorted(ids)) for query, ids in lessons.clicked.items())
    for value in (sorted(pairs), list(questions), development, clicked):
        found.update(orjson.dumps(value))
    for stored in school.corpus.documents:
        found.update(orjson.dumps((stored.key, stored.document.id, stored.document.title, stored.document.text)))
    return "oracle-" + with_code(found, "trainer")
