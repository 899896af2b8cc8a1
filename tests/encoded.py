"""Texts and a release of the tiny model, for the tests of encoders and of exports."""

import numpy as np

from clickloop.retriever.types import Document, Vectors

TEXTS = ["a", "map that creates missing keys", "", "sort the list " * 30, "Größe, 検索 🙂", "x y z"]
DOCUMENTS = [Document(str(i), title=f"title {i}", text=text) for i, text in enumerate(TEXTS)]


def cosines(left: Vectors, right: Vectors) -> list[float]:
    np.testing.assert_allclose(np.linalg.norm(left, axis=-1), 1, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(right, axis=-1), 1, atol=1e-5)
    return [float(cosine) for cosine in (np.atleast_2d(left) * np.atleast_2d(right)).sum(axis=1)]
