"""`clickloop bench training`: pairs a second in training, beside the trainer of sentence-transformers as it comes."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

from ..retriever.encoder import load_model
from ..retriever.model import find_model
from ..retriever.serving import TEMPLATE, render
from ..retriever.types import Document, Vectors
from ..trainer.contenders import MAX_TOKENS, encode
from ..trainer.mine import Pair, StoredVectors, Triplet, triplets
from ..trainer.recipe import Recipe
from ..trainer.throughput import WAYS, Spent, share_of_peak, timed
from ..trainer.truth import DECIDES, measure, ranked_by
from .collection import Question, read_documents, read_split
from .demo import questions
from .settings import read_settings
from .stdlib import documents

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from .bench import Given, Rows

PAIRS = 1_024
TEST = 1_000  # queries, at most
ROUNDS = 2  # in which both are trained in turns
COLUMNS = ("pairs/s", "pairs per CPU second", DECIDES, "share of a GPU's peak")


@dataclass(frozen=True, slots=True)
class Exam:
    """Documents and the questions that measure; the questions that teach are none of these."""

    documents: Sequence[Document]
    taught: Sequence[Question]
    test: Sequence[Question]

    @property
    def texts(self) -> list[str]:
        return [render(TEMPLATE, document) for document in self.documents]


def training(say: Callable[[str], None], given: "Given") -> "Rows":
    """Pairs (with a hard negative each) a second and nDCG@10 after them, with equal pairs, batches, loss and epochs."""
    os.environ["TQDM_DISABLE"] = "1"
    settings = read_settings()
    recipe, name = settings.recipe, find_model(settings.model)
    dials, exam = recipe.training.model_copy(update={"soup": 1}), _exam(given)  # one training against one
    say("encoding with the model before training")
    base = load_model(name)
    vectors = encode(base, exam.texts, MAX_TOKENS)
    say("mining hard negatives")
    lessons = _lessons(exam, base, vectors, recipe)
    rows: dict[str, dict[str, Any]] = {"before training": {DECIDES: _quality(base, exam, vectors)}}
    spent = {way: Spent() for way in WAYS}
    models: dict[str, SentenceTransformer] = {}
    for train in WAYS.values():  # what is loaded at the first use is nobody's
        timed(train, name, lessons[: dials.batch_size], dials)
    for number in range(1, ROUNDS + 1):
        for way, train in WAYS.items():
            say(f"training: {way}, round {number} of {ROUNDS}")
            models[way], took = timed(train, name, lessons, dials)
            spent[way] += took
    trained = len(lessons) * dials.epochs * ROUNDS
    for way, model in models.items():
        say(f"measuring: {way}")
        quality = _quality(model, exam, encode(model, exam.texts, MAX_TOKENS))
        share = share_of_peak(model, lessons, dials, spent[way].wall / ROUNDS)
        rates = f"{trained / spent[way].wall:.1f}", f"{trained / spent[way].cpu:.1f}"
        rows[way] = dict(zip(COLUMNS, (*rates, quality, "" if share is None else f"{share:.1%}"), strict=True))
    theirs, ours = spent.values()
    rows["ratio"] = dict(zip(COLUMNS, (f"{theirs.wall / ours.wall:.2f}", f"{theirs.cpu / ours.cpu:.2f}"), strict=False))
    return {label: {column: cells.get(column, "") for column in COLUMNS} for label, cells in rows.items()}


def _exam(given: "Given") -> Exam:
    if given.data is not None:
        found = read_documents(given.data)
        taught, test = (read_split(given.data, split, found) for split in ("train", "test"))
    else:
        found = [Document(item["id"], item["title"], item["text"]) for item in documents()]
        taught, test = questions(frozenset(document.id for document in found))
    return Exam(found, taught, Random(0).sample(test, min(TEST, len(test))))


def _lessons(exam: Exam, base: "SentenceTransformer", vectors: Vectors, recipe: Recipe) -> list[Triplet]:
    """True pairs of different queries, each with the hard negative that a night would give it."""
    taught = {question.text: question.right for question in exam.taught}
    chance = Random(0)
    drawn = chance.sample(sorted(taught), min(PAIRS, len(taught)))
    pairs = [Pair(text, chance.choice(sorted(taught[text])), 1.0) for text in drawn]
    texts = dict(zip((document.id for document in exam.documents), exam.texts, strict=True))
    queries = dict(zip(drawn, encode(base, drawn, MAX_TOKENS), strict=True))
    known = {text: set(right) for text, right in taught.items()}
    stored = StoredVectors(list(texts.values()), vectors, queries)
    margin = recipe.mining.relative_margin
    return triplets(pairs, known, texts, stored, relative_margin=margin, seed=recipe.seed)


def _quality(model: "SentenceTransformer", exam: Exam, vectors: Vectors) -> str:
    queries = encode(model, [question.text for question in exam.test], MAX_TOKENS)
    ranked = ranked_by([document.id for document in exam.documents], vectors, queries)
    return f"{measure(ranked, [question.right for question in exam.test])[DECIDES].mean():.3f}"
