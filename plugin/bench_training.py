"""`clickloop bench training`: pairs a second in training, beside the trainer of sentence-transformers as it comes."""

import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from ..retriever.encoder import TEMPLATE, load_model, render
from ..retriever.model import find_model
from ..retriever.types import Document, Vectors
from ..trainer.contenders import MAX_TOKENS, encode
from ..trainer.finetune import DIRECTIONS, finetune
from ..trainer.mine import Pair, StoredVectors, Triplet, triplets
from ..trainer.recipe import FineTuning, Recipe
from ..trainer.truth import DECIDES, measure, ranked_by
from .benchmark import Given, Rows
from .collection import Question, read_documents, read_split
from .demo import questions
from .settings import read_settings
from .stdlib import documents

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

PAIRS = 1_024
TEST = 1_000  # queries, at most
ROUNDS = 2  # in which both are trained in turns
MATRIX = 8_192  # width of the matrices whose product shows what a GPU can do
Train = Callable[[str, Sequence[Triplet], FineTuning, Path], "SentenceTransformer"]


@dataclass(frozen=True, slots=True)
class Exam:
    """Documents and the questions that measure; the questions that teach are none of these."""

    documents: Sequence[Document]
    taught: Sequence[Question]
    test: Sequence[Question]

    @property
    def texts(self) -> list[str]:
        return [render(TEMPLATE, document) for document in self.documents]


@dataclass(slots=True)
class Spent:
    wall: float = 0.0
    cpu: float = 0.0


def training(say: Callable[[str], None], given: Given) -> Rows:
    """Pairs (with a hard negative each) a second and nDCG@10 after them, with equal pairs, batches, loss and epochs."""
    os.environ["TQDM_DISABLE"] = "1"
    settings = read_settings()
    recipe, name = settings.recipe, find_model(settings.model)
    exam = _exam(given)
    say("encoding with the model before training")
    base = load_model(name)
    vectors = encode(base, exam.texts, MAX_TOKENS)
    say("mining hard negatives")
    lessons = _lessons(exam, base, vectors, recipe)
    rows: dict[str, dict[str, Any]] = {"before training": {DECIDES: _quality(base, exam, vectors)}}
    spent, models = {way: Spent() for way in WAYS}, {}
    for train in WAYS.values():  # what is loaded at the first use is nobody's
        _timed(train, name, lessons[: recipe.training.batch_size], recipe.training, Spent())
    for number in range(1, ROUNDS + 1):
        for way, train in WAYS.items():
            say(f"training: {way}, round {number} of {ROUNDS}")
            models[way] = _timed(train, name, lessons, recipe.training, spent[way])
    trained = len(lessons) * recipe.training.epochs * ROUNDS
    for way, model in models.items():
        say(f"measuring: {way}")
        rows[way] = _cells(trained, spent[way]) | _of_peak(model, lessons, recipe.training, spent[way])
        rows[way][DECIDES] = _quality(model, exam, encode(model, exam.texts, MAX_TOKENS))
    theirs, ours = spent.values()
    rows["ratio"] = {
        "pairs/s": f"{theirs.wall / ours.wall:.2f}",
        "pairs per CPU second": f"{theirs.cpu / ours.cpu:.2f}",
    }
    columns = list(rows[next(iter(WAYS))])
    return {label: {column: cells.get(column, "") for column in columns} for label, cells in rows.items()}


def as_it_comes(model: str, lessons: Sequence[Triplet], dials: FineTuning, work: Path) -> "SentenceTransformer":
    """fp32, dropout and the sampler are the trainer's defaults; how much is taught how is as in ours."""
    import torch
    from datasets import Dataset
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from transformers import PrinterCallback

    trained = load_model(model, dials.max_tokens)
    columns = {name: [getattr(lesson, name) for lesson in lessons] for name in ("query", "positive", "negative")}
    trainer = SentenceTransformerTrainer(
        model=trained,
        args=SentenceTransformerTrainingArguments(
            output_dir=str(work),
            num_train_epochs=dials.epochs,
            per_device_train_batch_size=dials.batch_size,
            learning_rate=dials.learning_rate,
            warmup_steps=0.1,
            use_cpu=not torch.cuda.is_available(),
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_dict(columns),
        loss=MultipleNegativesRankingLoss(trained, scale=1 / dials.temperature, directions=DIRECTIONS),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return trained


def ours(model: str, lessons: Sequence[Triplet], dials: FineTuning, work: Path) -> "SentenceTransformer":
    """As at night, but with nothing to choose the epoch by."""
    return finetune(Path(model), lessons, [], work, dials, prompts={}, seed=0, progress=lambda _share: None)[0]


WAYS: Mapping[str, Train] = {"SentenceTransformerTrainer": as_it_comes, "clickloop": ours}


def _exam(given: Given) -> Exam:
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


def _timed(
    train: Train, model: str, lessons: Sequence[Triplet], dials: FineTuning, spent: Spent
) -> "SentenceTransformer":
    import torch

    with tempfile.TemporaryDirectory() as work:
        wall, cpu = time.perf_counter(), time.process_time()
        trained = train(model, lessons, dials, Path(work))
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        spent.wall += time.perf_counter() - wall
        spent.cpu += time.process_time() - cpu
    return trained


def _cells(pairs: int, spent: Spent) -> dict[str, str]:
    return {"pairs/s": f"{pairs / spent.wall:.1f}", "pairs per CPU second": f"{pairs / spent.cpu:.1f}"}


def _quality(model: "SentenceTransformer", exam: Exam, vectors: Vectors) -> str:
    queries = encode(model, [question.text for question in exam.test], MAX_TOKENS)
    ranked = ranked_by([document.id for document in exam.documents], vectors, queries)
    return f"{measure(ranked, [question.right for question in exam.test])[DECIDES].mean():.3f}"


def _of_peak(
    model: "SentenceTransformer", lessons: Sequence[Triplet], dials: FineTuning, spent: Spent
) -> dict[str, str]:
    """On a GPU: of the operations that a bf16 matrix product reaches there, the share that training needs: 6 for each
    token and weight, embeddings and padding not counted (Kaplan et al. 2020).
    """
    import torch

    if not torch.cuda.is_available():
        return {}
    words = [text for lesson in lessons for text in (lesson.query, lesson.positive, lesson.negative)]
    encodings = model.tokenizer(words, truncation=True, max_length=dials.max_tokens)
    tokens = sum(len(ids) for ids in encodings["input_ids"]) * dials.epochs * ROUNDS
    embeddings = {id(part.weight) for part in model.modules() if isinstance(part, torch.nn.Embedding)}
    weights = sum(part.numel() for part in model.parameters() if id(part) not in embeddings)
    return {"share of peak": f"{6 * tokens * weights / spent.wall / _peak():.1%}"}


def _peak() -> float:
    """Operations a second of a large bf16 matrix product on the GPU."""
    import torch

    matrix = torch.randn(MATRIX, MATRIX, device="cuda", dtype=torch.bfloat16)
    torch.mm(matrix, matrix)
    torch.cuda.synchronize()
    began, times = time.perf_counter(), 20
    for _ in range(times):
        torch.mm(matrix, matrix)
    torch.cuda.synchronize()
    return 2.0 * MATRIX**3 * times / (time.perf_counter() - began)
