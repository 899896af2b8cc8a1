"""Training in groups of like length, and on a GPU without room: the same model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MultipleNegativesRankingLoss,
)

from clickloop.retriever.errors import ModelError
from clickloop.trainer import finetune as finetuning
from clickloop.trainer.finetune import finetune, weighted_loss
from clickloop.trainer.mine import Triplet
from clickloop.trainer.recipe import FineTuning

BATCH = 40
TRIPLETS = [
    Triplet(f"{query} k", f"{n % 10} l" + " k" * (n % 4), f"{(n + 3) % 10} m")
    for n, query in enumerate("abcdefghij" * 8)
]
Tune = Callable[[str], np.ndarray[Any, Any]]


@pytest.fixture
def tune(tiny_model: Path, tmp_path: Path) -> Tune:
    """Trains on 80 triplets and gives the vectors of a few texts."""

    def tuned(name: str) -> np.ndarray[Any, Any]:
        dials = FineTuning(epochs=1, batch_size=BATCH, learning_rate=1e-3, max_tokens=16)
        model, _ = finetune(
            tiny_model, TRIPLETS, [], tmp_path / name, dials, prompts={}, seed=0, progress=lambda _share: None
        )
        return np.asarray(model.encode(["a k", "3 l", "j m"], show_progress_bar=False))

    return tuned


@pytest.fixture
def room_for(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """A GPU that has room for so many texts at a time when they are embedded with gradients."""
    whole, embed = MultipleNegativesRankingLoss.forward, CachedMultipleNegativesRankingLoss.embed_minibatch
    full = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    def limit(texts: int) -> None:
        def limited_whole(self: Any, features: Any, labels: Any) -> Any:
            if len(next(iter(features))["input_ids"]) > texts:
                raise full
            return whole(self, features, labels)

        def limited(self: Any, *args: Any, **kwargs: Any) -> Any:
            if kwargs["end"] - kwargs["begin"] > texts and kwargs["with_grad"]:
                raise full
            return embed(self, *args, **kwargs)

        monkeypatch.setattr(finetuning, "_grouped", finetuning._whole_batches)
        monkeypatch.setattr(MultipleNegativesRankingLoss, "forward", limited_whole)
        monkeypatch.setattr(CachedMultipleNegativesRankingLoss, "embed_minibatch", limited)

    return limit


def test_training_goes_on_with_smaller_mini_batches_to_the_same_model(
    tune: Tune, room_for: Callable[[int], None], caplog: pytest.LogCaptureFixture
) -> None:
    expected = tune("with room")
    room_for(BATCH // 20)
    found = tune("without")
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert f"training goes on with {BATCH // 20} texts at a time" in caplog.text


def test_equal_weights_give_the_loss_of_sentence_transformers_and_others_the_mean_they_say() -> None:
    random = torch.Generator().manual_seed(0)
    columns = [torch.randn(5, 8, generator=random) for _ in range(3)]
    plain = MultipleNegativesRankingLoss(torch.nn.Identity(), directions=("query_to_doc", "doc_to_query"))  # type: ignore[arg-type]
    expected = plain.compute_loss_from_embeddings(columns, torch.ones(5))
    torch.testing.assert_close(weighted_loss(columns, torch.full((5,), 0.3), 20.0), expected)
    alone = [float(weighted_loss(columns, torch.eye(5)[row], 20.0)) for row in range(5)]
    weights = torch.tensor([0.5, 0.1, 0.0, 1.0, 0.4])
    assert float(weighted_loss(columns, weights, 20.0)) == pytest.approx(np.average(alone, weights=weights.numpy()))


def test_groups_of_like_length_teach_the_same_model(tune: Tune, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finetuning, "GROUP", 7)
    grouped = tune("grouped")
    monkeypatch.setattr(finetuning, "_grouped", finetuning._whole_batches)
    np.testing.assert_allclose(grouped, tune("whole"), atol=1e-3)


def test_without_room_for_a_single_text_the_settings_to_change_are_named(
    tune: Tune, room_for: Callable[[int], None]
) -> None:
    room_for(0)
    with pytest.raises(ModelError, match=r"lower training\.max_tokens = 16 or training\.batch_size = 40"):
        tune("never")


def test_the_untuned_model_differs_from_the_tuned_one(tune: Tune, tiny_model: Path) -> None:
    """Otherwise the comparison above would say nothing."""
    untuned = SentenceTransformer(str(tiny_model), device="cpu").encode(["a k", "3 l", "j m"], show_progress_bar=False)
    assert np.abs(tune("tuned") - np.asarray(untuned)).max() > 0.01
