"""How fast a model is trained, by the recipe of a night and by the trainer of sentence-transformers as it comes."""

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..retriever.encoder import load_model
from .finetune import Course, finetune
from .mine import TEXTS, Triplet
from .recipe import FineTuning

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

MATRIX = 8_192  # width of the matrices whose product shows what a GPU can do
PRODUCTS = 20
BOTH_WAYS: Any = ("query_to_doc", "doc_to_query")  # as ours, which counts the own pair once
Train = Callable[[str, Sequence[Triplet], FineTuning, Path], "SentenceTransformer"]


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds, of the clock and of all cores."""

    wall: float = 0.0
    cpu: float = 0.0

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(self.wall + other.wall, self.cpu + other.cpu)


def as_it_comes(model: str, lessons: Sequence[Triplet], dials: FineTuning, work: Path) -> "SentenceTransformer":
    """fp32, dropout and the sampler are the trainer's defaults; what is taught how often and how fast is as in ours."""
    import torch
    from datasets import Dataset
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from transformers import PrinterCallback

    trained = load_model(model, dials.max_tokens)
    columns = {name: [getattr(lesson, name) for lesson in lessons] for name in TEXTS}
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
        loss=MultipleNegativesRankingLoss(trained, scale=1 / dials.temperature, directions=BOTH_WAYS),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return trained


def ours(model: str, lessons: Sequence[Triplet], dials: FineTuning, work: Path) -> "SentenceTransformer":
    """As at night, but with nothing to choose the epoch by."""
    return finetune(Course(Path(model), lessons, [], dials, {}), work, seed=0, progress=lambda _share: None)[0]


WAYS: Mapping[str, Train] = {"SentenceTransformerTrainer": as_it_comes, "clickloop": ours}


def timed(
    train: Train, model: str, lessons: Sequence[Triplet], dials: FineTuning
) -> tuple["SentenceTransformer", Spent]:
    """The trained model and what it took, from loading it to its last weights."""
    import torch

    with tempfile.TemporaryDirectory() as work:
        wall, cpu = time.perf_counter(), time.process_time()
        trained = train(model, lessons, dials, Path(work))
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return trained, Spent(time.perf_counter() - wall, time.process_time() - cpu)


def share_of_peak(
    model: "SentenceTransformer", lessons: Sequence[Triplet], dials: FineTuning, seconds: float
) -> float | None:
    """On a GPU: of the operations that a bf16 matrix product reaches there, the share that this training needs: 6 for
    each token and weight, embeddings and padding not counted (Kaplan et al. 2020).
    """
    import torch

    if not torch.cuda.is_available():
        return None
    texts = [text for lesson in lessons for text in (lesson.query, lesson.positive, lesson.negative)]
    encodings = model.tokenizer(texts, truncation=True, max_length=dials.max_tokens)
    tokens = dials.epochs * sum(len(ids) for ids in encodings["input_ids"])
    embeddings = {id(part.weight) for part in model.modules() if isinstance(part, torch.nn.Embedding)}
    weights: int = sum(part.numel() for part in model.parameters() if id(part) not in embeddings)
    return 6 * tokens * weights / seconds / _peak()


def _peak() -> float:
    """Operations a second of a large bf16 matrix product on the GPU."""
    import torch

    matrix = torch.randn(MATRIX, MATRIX, device="cuda", dtype=torch.bfloat16)
    torch.mm(matrix, matrix)
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(PRODUCTS):
        torch.mm(matrix, matrix)
    torch.cuda.synchronize()
    return 2.0 * MATRIX**3 * PRODUCTS / (time.perf_counter() - began)
