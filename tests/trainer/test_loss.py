"""The loss of a batch is what its definition says, however often its texts come again."""

from typing import Any

import numpy as np
import pytest
import torch

from clickloop.trainer.loss import numbered, right_pairs, weighted_loss
from clickloop.trainer.mine import Triplet


def cosine(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


@pytest.mark.parametrize(
    "rows",
    [
        [("q", "a", "b"), ("r", "c", "d"), ("s", "e", "f"), ("t", "g", "h"), ("u", "i", "j")],
        [("q", "a", "b"), ("q", "c", "b"), ("s", "a", "c"), ("q", "d", "e"), ("t", "e", "a")],
        [("q", "a", "b")] * 5,
    ],
    ids=["all different", "some come again", "nothing else"],
)
def test_the_loss_is_the_weighted_mean_of_what_each_query_and_its_document_lose(
    rows: list[tuple[str, str, str]],
) -> None:
    """Among all different texts of the batch but those that are right too, as another batch may teach."""
    random = np.random.default_rng(0)
    numbers = numbered([Triplet(*row) for row in [*rows, ("t", "a", "z"), ("q", "d", "z")]])
    vectors = random.normal(size=(50, 8)).astype(np.float32)
    right = {(query, positive) for query, positive, _ in numbers}
    batch = numbers[: len(rows)]
    queries, documents = {row[0] for row in batch}, {number for row in batch for number in row[1:]}
    losses = []
    for query, positive, _ in batch:
        own = cosine(vectors[query], vectors[positive])
        others = [cosine(vectors[query], vectors[number]) for number in documents if (query, number) not in right]
        others += [cosine(vectors[number], vectors[positive]) for number in queries if (number, positive) not in right]
        losses.append(np.log(np.sum(np.exp(20 * np.array([own, *others])))) - 20 * own)
    weights = [0.5, 0.1, 0.0, 1.0, 0.4]
    columns = [torch.tensor(vectors[list(column)]) for column in zip(*batch, strict=True)]
    labels = [[weight, *row] for weight, row in zip(weights, batch, strict=True)]
    found = weighted_loss(columns, torch.tensor(labels), right_pairs(numbers), 20.0)
    assert float(found) == pytest.approx(np.average(losses, weights=weights), rel=1e-4, abs=1e-6)
