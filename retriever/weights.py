"""A model that was trained further, in the graph that its parent was exported to."""

import hashlib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .encoder import load_model
from .errors import ModelError
from .serving import EXPORT

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Array = npt.NDArray[np.float32]


def write_weights(model: "SentenceTransformer", folder: Path, parent: Path) -> None:
    """Exports `model` as the graph of the release in `parent`, whose modules it shares, with weights of its own.

    Tracing takes seconds and always gives that graph. Its matrices are found by what they hold, because the export
    stores most of them transposed, under names of its own. Raises ModelError where one cannot be told, or where a
    weight has changed that the graph does not hold as such.
    """
    import onnx
    from onnx.external_data_helper import ExternalDataInfo

    weights = _Weights(load_model(str(parent / "model")), model)
    data = folder / f"{EXPORT}.data"
    for name in (EXPORT, data.name):
        shutil.copy(parent / name, folder / name)
    graph = onnx.load(folder / EXPORT, load_external_data=False)
    for tensor in graph.graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT or not tensor.dims:
            continue  # a number is a constant of the architecture
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            place = ExternalDataInfo(tensor)
            values = np.memmap(data, np.float32, "r+", offset=place.offset or 0, shape=tuple(tensor.dims))
            values[...] = weights.instead_of(tensor.name, values)
        else:
            new = weights.instead_of(tensor.name, onnx.numpy_helper.to_array(tensor))
            tensor.CopyFrom(onnx.numpy_helper.from_array(new, tensor.name))
    if missing := weights.changed - weights.found:
        raise ModelError(f"it holds no {min(missing)} of its model")
    (folder / EXPORT).write_bytes(graph.SerializeToString())


class _Weights:
    """The weights of a model by what its parent has in their place."""

    def __init__(self, parent: "SentenceTransformer", model: "SentenceTransformer") -> None:
        """Raises ModelError when the two are not of one shape."""
        before, self._after = _arrays(parent), _arrays(model)
        if {name: array.shape for name, array in before.items()} != {
            name: array.shape for name, array in self._after.items()
        }:
            raise ModelError("its model has other weights")
        self._places: dict[tuple[tuple[int, ...], bytes], list[tuple[str, bool]]] = {}
        for name, array in before.items():
            for transposed in (False, True) if array.ndim == 2 else (False,):
                key = _key(array.T if transposed else array)
                self._places.setdefault(key, []).append((name, transposed))
        self.changed = {name for name, array in before.items() if not np.array_equal(array, self._after[name])}
        self.found: set[str] = set()

    def instead_of(self, name: str, values: Array) -> Array:
        """What the model has where its parent has `values`, which the graph calls `name`."""
        places = self._places.get(_key(values), [])
        # Values may be there twice, as the ones and zeros of fresh layers are: then the name decides.
        places = [place for place in places if name.endswith(f".{place[0]}")] or places
        if not places and values.shape[-1] % 3 == 0:  # the projections of an attention, packed side by side
            return np.concatenate([self.instead_of(name, part) for part in np.split(values, 3, axis=-1)], axis=-1)
        if len(places) != 1:
            raise ModelError(f"{len(places)} weights of its model are like {name}")
        ((found, transposed),) = places
        self.found.add(found)
        return self._after[found].T if transposed else self._after[found]


def _arrays(model: "SentenceTransformer") -> dict[str, Array]:
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return {name: tensor.detach().cpu().numpy() for name, tensor in tensors if tensor.is_floating_point()}


def _key(array: Array) -> tuple[tuple[int, ...], bytes]:
    return array.shape, hashlib.sha256(array.tobytes()).digest()
