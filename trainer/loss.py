"""What a training minimises: every query among the documents of its batch, and every document among its queries."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..retriever.encoder import best_device, has_bfloat16
from ..retriever.errors import ModelError
from .mine import Triplet
from .recipe import FineTuning

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

log = logging.getLogger(__name__)

GROUP = 24  # texts of like length that a CPU encodes together: more add padding, fewer gradients of all embeddings
# Tokens of a batch whose activations a CPU keeps until the way back: some 2 GB of MiniLM-L6. Those of longer texts it
# computes again there, which takes a third longer; a batch of long documents would fill the memory of a small machine.
KEPT = 8_192
Row = tuple[int, int, int]  # the numbers of a triplet's texts


def batch_loss(model: "SentenceTransformer", temperature: float, rows: Sequence[Row]) -> Any:
    """`weighted_loss` of whole batches, knowing what is right in all rows."""
    kind = _whole_batches() if best_device() == "cuda" else _grouped()
    return kind(model, 1 / temperature, right_pairs(rows))


def numbered(triplets: Sequence[Triplet]) -> list[Row]:
    """Each as the numbers of its texts; equal texts have the same one."""
    number: dict[str, int] = {}
    texts = ((triplet.query, triplet.positive, triplet.negative) for triplet in triplets)
    return [tuple(number.setdefault(text, len(number)) for text in three) for three in texts]  # type: ignore[misc]


def weighted_loss(embeddings: Sequence[Any], labels: Any, right: Any, scale: float) -> Any:
    """Multiple-negatives ranking loss: a query must find its document among all of the batch, and the document its
    query, in one softmax of cosines times `scale`. A text that comes again in the batch is one text, and what is taught
    as right for a query in any batch is no negative of it. `embeddings`: queries, positives, negatives, each batch ×
    dimension; `labels`, batch × 4: the weight of the row, and the numbers of its three texts (floats: exact to 2^24);
    `right`: `right_pairs`.
    """
    import torch
    from sentence_transformers.util import cos_sim

    queries, *documents = embeddings
    weights, query, positive, *negatives = labels.T
    shown = torch.cat([positive, *negatives])
    is_right = torch.isin(_pairs(query[:, None], shown), right.to(labels.device))
    own = torch.eye(len(query), len(shown), dtype=torch.bool, device=labels.device)
    hidden = (is_right | _came_before(shown)) & ~own
    to_documents = (cos_sim(queries, torch.cat(documents)) * scale).masked_fill(hidden, -torch.inf)
    hidden = is_right[:, : len(query)].T | _came_before(query)
    to_queries = (cos_sim(documents[0], queries) * scale).masked_fill(hidden, -torch.inf)
    target = torch.arange(len(query), device=labels.device)
    losses = torch.nn.functional.cross_entropy(torch.cat([to_documents, to_queries], dim=1), target, reduction="none")
    return (losses * weights).sum() / weights.sum()


def right_pairs(rows: Sequence[Row]) -> Any:
    """Of the queries and positives of all rows, a number each."""
    import torch

    query, positive, _ = torch.tensor(rows).T
    return _pairs(query, positive).unique()


def _pairs(query: Any, document: Any) -> Any:
    return (query.long() << 32) + document.long()


def _came_before(numbers: Any) -> Any:
    return (numbers[:, None] == numbers).tril(-1).any(1)


def _whole_batches() -> Any:
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    class Weighted(MultipleNegativesRankingLoss):
        def __init__(self, model: "SentenceTransformer", scale: float, right: Any) -> None:
            super().__init__(model, scale=scale)
            self.right = right

        def compute_loss_from_embeddings(self, embeddings: Any, labels: Any) -> Any:
            return weighted_loss(embeddings, labels, self.right, self.scale)

    return Weighted


def _grouped() -> Any:
    """All texts of a batch are encoded in groups of like length, which changes nothing but the padding."""
    import torch
    from torch.utils.checkpoint import checkpoint

    class Grouped(_whole_batches()):  # type: ignore[misc]
        def forward(self, sentence_features: Any, labels: Any) -> Any:
            columns = list(sentence_features)
            texts = _together(columns)
            lengths = texts["attention_mask"].sum(1)
            order, parts, tokens = lengths.argsort(), [], 0
            for start in range(0, len(order), GROUP):
                rows = order[start : start + GROUP]
                group = {name: value[rows, : int(lengths[rows].max())] for name, value in texts.items()}
                tokens += group["input_ids"].numel()
                again = tokens > KEPT
                parts.append(checkpoint(self._encoded, group, use_reentrant=False) if again else self._encoded(group))
            embeddings = torch.cat(parts)[order.argsort()]
            sizes = [len(features["input_ids"]) for features in columns]
            return self.compute_loss_from_embeddings(list(torch.split(embeddings, sizes)), labels)

        def _encoded(self, group: Mapping[str, Any]) -> Any:
            return self.model(dict(group))["sentence_embedding"]  # the model writes into what it is given

    return Grouped


def _together(columns: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The texts of all columns under each other, padded on the right to the longest."""
    import torch
    from torch.nn.functional import pad

    widest = max(features["input_ids"].shape[1] for features in columns)
    first = columns[0]
    names = [name for name, value in first.items() if getattr(value, "shape", None) == first["input_ids"].shape]
    return {
        name: torch.cat([pad(features[name], (0, widest - features[name].shape[1])) for features in columns])
        for name in names
    }


def smaller(loss: Any, dials: FineTuning, error: Exception) -> Any:
    """The same loss with half as many texts in memory at a time, by caching gradients (Gao et al. 2021), which costs a
    second pass. Raises ModelError that names the settings to change when single texts are too large already.
    """
    import torch
    from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss

    size = getattr(loss, "mini_batch_size", dials.batch_size)
    if size == 1:
        raise ModelError(
            "the GPU has no room for training, even one text at a time: lower training.max_tokens = "
            f"{dials.max_tokens} or training.batch_size = {dials.batch_size}, or end what else runs there ({error})"
        ) from error
    log.warning("the GPU has no room: training goes on with %d texts at a time", size // 2)

    class Half(CachedMultipleNegativesRankingLoss):
        """Also weighted, and recomputes in bf16 on the way back, which the trainer leaves outside of its autocast."""

        def __init__(self) -> None:
            super().__init__(loss.model, scale=loss.scale, mini_batch_size=size // 2)
            self.right = loss.right

        def calculate_loss(self, reps: Any, labels: Any = None, *, with_backward: bool = False) -> Any:
            found = weighted_loss([torch.cat(parts) for parts in reps], labels, self.right, self.scale)
            if with_backward:
                found.backward()
            return found.detach() if with_backward else found

        def embed_minibatch_iter(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
            with torch.autocast(best_device(), dtype=torch.bfloat16, enabled=has_bfloat16()):
                yield from super().embed_minibatch_iter(*args, **kwargs)

    return Half()
