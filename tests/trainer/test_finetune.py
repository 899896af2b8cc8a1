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
from torch.utils.checkpoint import checkpoint

from clickloop.retriever.errors import ModelError
from clickloop.trainer import finetune as finetuning
from clickloop.trainer import loss as losses
from clickloop.trainer.finetune import Course, finetune, mixed
from clickloop.trainer.loss import weighted_loss
from clickloop.trainer.mine import Triplet
from clickloop.trainer.recipe import FineTuning

BATCH = 40
TRIPLETS = [
    Triplet(f"{query} k", f"{n % 10} l" + " k" * (n % 4), f"{(n + 3) % 10} m")
    for n, query in enumerate("abcdefghij" * 8)
]
Tune = Callable[..., np.ndarray[Any, Any]]


@pytest.fixture
def tune(tiny_model: Path, tmp_path: Path) -> Tune:
    """Trains on 80 triplets and gives the vectors of a few texts."""

    def tuned(name: str, **more: Any) -> np.ndarray[Any, Any]:
        dials = FineTuning(epochs=1, soup=1, batch_size=BATCH, learning_rate=1e-3, max_tokens=16, **more)
        course = Course(tiny_model, TRIPLETS, [], dials, {})
        model, _ = finetune(course, tmp_path / name, seed=0, progress=lambda _share: None)
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

        monkeypatch.setattr(losses, "_grouped", losses._whole_batches)
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


def test_every_pair_is_taught_though_most_have_one_document(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taught: list[int] = []

    def counted(embeddings: Any, labels: Any, *others: Any) -> Any:
        taught.extend(labels[:, 1].tolist())
        return weighted_loss(embeddings, labels, *others)

    monkeypatch.setattr(losses, "weighted_loss", counted)
    popular = [Triplet(f"{one} {other}", "1 l", "2 m") for one in "abcdef" for other in "ghijkl"]
    dials = FineTuning(epochs=1, soup=1, batch_size=8, learning_rate=1e-3, max_tokens=16)
    finetune(Course(tiny_model, popular, [], dials, {}), tmp_path, seed=0, progress=lambda _share: None)
    assert len(taught) == len(set(taught)) == len(popular)


def test_weights_between_two_models(tiny_model: Path, tmp_path: Path) -> None:
    first = SentenceTransformer(str(tiny_model), device="cpu")
    trained = SentenceTransformer(str(tiny_model), device="cpu")
    with torch.no_grad():
        for weights in trained.parameters():
            weights.add_(torch.randn_like(weights))
    trained.save(str(tmp_path / "trained"))
    found = mixed({tiny_model: 0.75, tmp_path / "trained": 0.25}).state_dict()
    for name, start in first.named_parameters():
        torch.testing.assert_close(found[name], 0.75 * start + 0.25 * trained.state_dict()[name])


def test_groups_of_like_length_teach_the_same_model(tune: Tune, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "GROUP", 7)
    grouped = tune("grouped")
    monkeypatch.setattr(losses, "_grouped", losses._whole_batches)
    np.testing.assert_allclose(grouped, tune("whole"), atol=1e-3)


def test_what_is_computed_again_on_the_way_back_teaches_the_same_model(
    tune: Tune, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, again = tune("kept"), []

    def counted(*args: Any, **kwargs: Any) -> Any:
        again.append(args)
        return checkpoint(*args, **kwargs)

    monkeypatch.setattr("torch.utils.checkpoint.checkpoint", counted)
    monkeypatch.setattr(losses, "KEPT", 300)
    np.testing.assert_allclose(kept, tune("again"), atol=1e-5)
    groups = -(-3 * BATCH // losses.GROUP) * 2  # in two steps
    assert 0 < len(again) < groups, "some are kept"


def test_the_share_of_tokens_that_is_left_out_is_the_dials(tune: Tune) -> None:
    nothing, as_usual, much = (
        tune("nothing", token_dropout=0.0),
        tune("as usual"),
        tune("much", token_dropout=0.9),
    )
    assert np.abs(nothing - as_usual).max() > 1e-3
    assert np.abs(much - as_usual).max() > 1e-3


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


def test_a_soup_is_the_mean_of_trainings_and_goes_on_after_those_that_are_finished(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds, shares = [], []
    train = finetuning._train

    def counted(course: Course, work: Path, seed: int, progress: Callable[[float], None]) -> Any:
        seeds.append(seed)
        if seeds == [6, 7]:
            raise KeyboardInterrupt
        return train(course, work, seed, progress)

    def tuned(work: str, seed: int, soup: int) -> tuple[dict[str, torch.Tensor], list[dict[str, float]]]:
        dials = FineTuning(epochs=1, soup=soup, batch_size=BATCH, learning_rate=1e-3, max_tokens=16)
        course = Course(tiny_model, TRIPLETS, [], dials, {})
        model, curve = finetune(course, tmp_path / work, seed=seed, progress=shares.append)
        return dict(model.named_parameters()), curve

    monkeypatch.setattr(finetuning, "_train", counted)
    with pytest.raises(KeyboardInterrupt):
        tuned("soup", 2, 3)
    assert not list((tmp_path / "soup" / "0").glob("checkpoint-*")), "of no more use"
    found, curve = tuned("soup", 2, 3)
    assert seeds == [6, 7, 7, 8], "what is finished is not done again"
    assert shares[-1] == pytest.approx(1)
    assert shares == sorted(shares)
    parts = [tuned(f"alone {seed}", seed, 1) for seed in (6, 7, 8)]
    assert curve == parts[0][1]
    for name, weights in found.items():
        torch.testing.assert_close(weights, sum(part[name] for part, _ in parts) / 3, rtol=0, atol=1e-5)
    (one, _), (other, _) = parts[:2]
    assert any(not torch.equal(one[name], other[name]) for name in one), "the order of the pairs matters"
