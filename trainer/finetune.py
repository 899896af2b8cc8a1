"""Fine-tuning the champion on triplets with the sentence-transformers trainer."""

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from ..retriever.encoder import best_device, has_bfloat16, load_model
from .loss import Row, batch_loss, numbered, smaller
from .mine import TEXTS, Triplet
from .recipe import FineTuning
from .token_dropout import dropout_collator

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

log = logging.getLogger(__name__)

PATIENCE = 2  # epochs without a better ranking on the development split
DISTRACTORS = 500  # texts of the training split among which those of the development split must be found
TRAINED, CURVE = "trained", "curve.json"  # in the folder of a training: its model, and there its curve
CHOOSES = "eval_development_cosine_ndcg@10"


@dataclass(frozen=True, slots=True)
class Course:
    """What is taught to which model, and how; `development` may be empty, and then chooses no epoch."""

    start: Path  # the folder of the model that is trained further
    training: Sequence[Triplet]
    development: Sequence[Triplet]
    dials: FineTuning
    prompts: Mapping[str, str]  # of "query" and "document"


def finetune(
    course: Course, work: Path, *, seed: int, progress: Callable[[float], None]
) -> tuple["SentenceTransformer", list[dict[str, float]]]:
    """The tuned model and the curve of its first training: epoch, and loss or nDCG@10 on the development split.

    A model soup (Wortsman et al. 2022): the mean of the weights of `dials.soup` trainings with the pairs in different
    orders, which learn the same of what is right and different things of what is wrong. Resumes from `work`: trainings
    that are finished stay so, and another one goes on from its newest checkpoint.
    """
    count = course.dials.soup
    folders = [work / str(number) for number in range(count)]
    for number, folder in enumerate(folders):

        def show(share: float, done: int = number) -> None:
            progress((done + share) / count)

        if not (folder / TRAINED).exists():
            model, curve = _train(course, folder, seed * count + number, show)
            _keep(model, curve, folder)
    curve = orjson.loads((folders[0] / TRAINED / CURVE).read_bytes())
    return mixed({folder / TRAINED: 1 / count for folder in folders}), curve


def _train(
    course: Course, work: Path, seed: int, progress: Callable[[float], None]
) -> tuple["SentenceTransformer", list[dict[str, float]]]:
    """Weighted multiple-negatives ranking (Henderson et al. 2017) in both directions; keeps the epoch that ranks the
    development split best.
    """
    import torch
    from datasets import disable_progress_bars
    from transformers import EarlyStoppingCallback, PrinterCallback

    dials = course.dials
    disable_progress_bars()
    torch.manual_seed(seed)
    model = load_model(str(course.start))
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            # With dropout a CPU falls back to an attention that takes twice as long; tokens are left out instead.
            module.p = 0.0
    served_length = model.max_seq_length
    model.max_seq_length = min(dials.max_tokens, int(served_length or dials.max_tokens))
    judged, rows = bool(course.development), numbered(course.training)
    trainer = _trainer_class(model, dials)(
        model=model,
        args=_arguments(work, course, seed),
        train_dataset=_dataset(course.training, rows),
        evaluator=_evaluator(course) if judged else None,
        loss=batch_loss(model, dials.temperature, rows),
        callbacks=[_watch(progress), *([EarlyStoppingCallback(PATIENCE)] if judged else [])],
    )
    trainer.remove_callback(PrinterCallback)
    with _attention():
        trainer.train(resume_from_checkpoint=_newest_checkpoint(work))
    # Otherwise every later call, the export's too, still runs in the trainer's bf16.
    model = trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    model.max_seq_length = served_length
    return model, _curve(trainer.state.log_history)


def _trainer_class(model: "SentenceTransformer", dials: FineTuning) -> Any:
    import torch
    from sentence_transformers import SentenceTransformerTrainer

    class Trainer(SentenceTransformerTrainer):
        data_collator_class = dropout_collator(model, dials.token_dropout)

        def add_model_card_callback(self, *_: Any) -> None:
            """Adds none: the card of a trained model quotes queries and texts of documents."""

        def training_step(self, *args: Any, **kwargs: Any) -> Any:
            """Done again with smaller mini-batches where the GPU has no room; the cached gradients are the same."""
            while True:
                try:
                    return super().training_step(*args, **kwargs)
                except torch.OutOfMemoryError as error:
                    self.loss = smaller(self.loss, dials, error)
                self.model.zero_grad()  # what the interrupted step left
                torch.cuda.empty_cache()

    return Trainer


def _arguments(work: Path, course: Course, seed: int) -> Any:
    import torch
    from sentence_transformers import SentenceTransformerTrainingArguments

    dials, judged, document = course.dials, bool(course.development), course.prompts.get("document", "")
    return SentenceTransformerTrainingArguments(
        output_dir=str(work),
        num_train_epochs=dials.epochs,
        per_device_train_batch_size=dials.batch_size,
        learning_rate=dials.learning_rate,
        warmup_steps=0.1,
        bf16=has_bfloat16(),
        tf32=torch.cuda.is_available() or None,
        use_cpu=not torch.cuda.is_available(),
        prompts={"query": course.prompts.get("query", ""), "positive": document, "negative": document},
        eval_strategy="epoch" if judged else "no",
        save_strategy="epoch",
        save_total_limit=1,
        load_best_model_at_end=judged,
        metric_for_best_model=CHOOSES if judged else None,
        greater_is_better=True,
        logging_steps=5,
        report_to="none",
        disable_tqdm=True,
        seed=seed,
        data_seed=seed,
        dataloader_pin_memory=False,
    )


def _dataset(triplets: Sequence[Triplet], rows: Sequence[Row]) -> Any:
    """Texts, and as label what `weighted_loss` reads."""
    from datasets import Dataset

    columns = {name: [getattr(triplet, name) for triplet in triplets] for name in TEXTS}
    labels = [[triplet.weight, *row] for triplet, row in zip(triplets, rows, strict=True)]
    return Dataset.from_dict({**columns, "label": labels})


def _evaluator(course: Course) -> Any:
    """Ranks the development split's texts among some of the training split's: its loss grows with confidence, also
    while the ranking still improves.
    """
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator
    from sentence_transformers.util import cos_sim

    training, development = course.training, course.development
    right: dict[str, set[str]] = {}
    for triplet in development:
        right.setdefault(triplet.query, set()).add(triplet.positive)
    own = [text for triplet in development for text in (triplet.positive, triplet.negative)]
    others = [triplet.positive for triplet in training[:: max(len(training) // DISTRACTORS, 1)]]
    return InformationRetrievalEvaluator(
        queries={query: query for query in right},
        corpus={text: text for text in [*own, *others]},
        relevant_docs=right,
        ndcg_at_k=[10],
        batch_size=course.dials.batch_size,
        name="development",
        write_csv=False,
        score_functions={"cosine": cos_sim},
        query_prompt=course.prompts.get("query"),
        corpus_prompt=course.prompts.get("document"),
    )


def _watch(progress: Callable[[float], None]) -> Any:
    from transformers import TrainerCallback

    class Watch(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
            progress(state.global_step / max(state.max_steps, 1))

    return Watch()


def _attention() -> Any:
    """Flash attention's backward pass takes a CPU several times as long as plain matrix products on short texts."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    return nullcontext() if best_device() == "cuda" else sdpa_kernel([SDPBackend.MATH])


def _newest_checkpoint(work: Path) -> str | None:
    """The newest whole checkpoint: the trainer writes its state last. Older attempts at one are removed."""
    found = sorted(work.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    for path in reversed(found):
        if (path / "trainer_state.json").exists():
            log.info("resuming from %s", path.name)
            return str(path)
        shutil.rmtree(path)
    return None


def _curve(history: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    names = {"epoch": "epoch", "loss": "loss", CHOOSES: "nDCG@10"}
    rows = [entry for entry in history if "loss" in entry or CHOOSES in entry]
    return [{short: float(entry[name]) for name, short in names.items() if name in entry} for entry in rows]


def _keep(model: "SentenceTransformer", curve: list[dict[str, float]], folder: Path) -> None:
    """In a folder that appears complete or not at all; the checkpoints are of no more use."""
    partial = folder / f"{TRAINED}.part"
    model.save(str(partial), create_model_card=False)
    (partial / CURVE).write_bytes(orjson.dumps(curve))
    partial.replace(folder / TRAINED)
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)


def mixed(shares: Mapping[Path, float]) -> "SentenceTransformer":
    """The model whose weights are the mean of those in the folders, by shares that sum to 1 (Wortsman et al. 2022)."""
    import torch

    first, *others = shares
    model = load_model(str(first))
    weights = dict(model.named_parameters())
    with torch.no_grad():
        for own in weights.values():
            own.mul_(shares[first])
        for folder in others:
            for name, more in load_model(str(folder)).named_parameters():
                weights[name].add_(more, alpha=shares[folder])
    return model
