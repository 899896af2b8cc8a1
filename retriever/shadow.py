"""The shadow index: exact search by FAISS over one release's vectors, to judge with, never to serve."""

from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import ClickLoopError
from .types import Keys, Vectors

WORTH_A_GPU = 20_000  # documents; of fewer there may be many indexes, one a filter, and each would set up all GPUs
MAX_K = 1024  # the GPU's limit is 2048, of which a part is spent on equal scores


class ShadowIndex:
    def __init__(self, keys: Keys, vectors: Vectors) -> None:
        """`keys` in ascending order, one a row of `vectors` (n × dimension, rows of length 1)."""
        faiss = _faiss()
        self._keys = keys
        self._index: Any = faiss.IndexFlatIP(vectors.shape[1])
        if faiss.get_num_gpus() > 0 and len(vectors) >= WORTH_A_GPU:
            self._index = faiss.index_cpu_to_all_gpus(self._index)
        self._index.add(np.ascontiguousarray(vectors, dtype=np.float32))

    def query(self, vectors: Vectors, k: int) -> tuple[Keys, npt.NDArray[np.float32]]:
        """Keys and cosines (queries × min(k, n)), best first; equal scores are in the order of their keys, so that
        CPU and GPU agree.
        """
        k = min(k, len(self._keys), MAX_K)
        if k == 0:  # FAISS refuses it
            return np.empty((len(vectors), 0), np.int64), np.empty((len(vectors), 0), np.float32)
        # Some more than k, so that which of several equal scores makes the cut does not depend on the device.
        scores, rows = self._index.search(np.ascontiguousarray(vectors), min(k + 32, len(self._keys)))
        order = np.lexsort((rows, -scores), axis=-1)[:, :k]
        rows = np.take_along_axis(rows, order, axis=1)
        return self._keys[rows], np.take_along_axis(scores, order, axis=1)


def _faiss() -> Any:
    try:
        import faiss
    except ImportError:
        raise ClickLoopError(
            "the nightly run needs FAISS: install clickloop[gpu] on a machine with a GPU, otherwise clickloop[cpu]"
        ) from None
    return faiss
