"""Word dropout: every time a text is trained on it lacks other tokens, so that no training learns it by heart."""

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from .mine import TEXTS

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def dropout_collator(model: "SentenceTransformer", share: float) -> Any:
    """The class that makes batches of the trainer's rows, each text without this share of its tokens, drawn anew."""
    from sentence_transformers.sentence_transformer.data_collator import SentenceTransformerDataCollator

    special = model.tokenizer.all_special_ids

    class DroppingTokens(SentenceTransformerDataCollator):
        def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
            batch = super().__call__(features)
            for column in TEXTS:
                start = f"{column}_"
                texts = {name.removeprefix(start): value for name, value in batch.items() if name.startswith(start)}
                batch |= {start + name: value for name, value in drop_tokens(texts, share, special).items()}
            return batch

    return DroppingTokens


def drop_tokens(texts: Mapping[str, Any], share: float, special: Collection[int]) -> dict[str, Any]:
    """Tokenised texts (batch × tokens) without this share of their tokens (Iyyer et al. 2015); what follows moves up.

    Special tokens and those of a prompt stay, and so does a text of which nothing would be left.
    """
    import torch

    ids, real = texts["input_ids"], texts["attention_mask"].bool()
    place = torch.arange(ids.shape[1])
    fixed = torch.isin(ids, torch.tensor(sorted(special))) | (place < texts.get("prompt_length", 0))
    drawn = torch.rand(ids.shape) >= share
    left = (drawn & ~fixed & real).any(1, keepdim=True)
    kept = real & (drawn | fixed | ~left)
    order, lengths = (~kept).byte().argsort(dim=1, stable=True), kept.sum(1, keepdim=True)
    widest = int(lengths.max())
    moved = {
        name: value.gather(1, order)[:, :widest]
        for name, value in texts.items()
        if getattr(value, "shape", None) == ids.shape
    }
    return {**texts, **moved, "attention_mask": (place[:widest] < lengths).to(texts["attention_mask"].dtype)}
