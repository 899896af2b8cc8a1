"""A model exported for serving: as a graph of ONNX with its weights, whole and quantised.

torch and onnx are imported inside the functions that need them, as in the encoder.
"""

import hashlib
import logging
import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnxruntime
from tokenizers import Tokenizer

from .encoder import load_model
from .errors import ModelError
from .serving import EXPORT, SMALL_EXPORT, WHOLE, artefacts, unit

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

Array = npt.NDArray[np.float32]

log = logging.getLogger(__name__)

MIN_COSINE = 0.9999  # between the export and the model it was made from


def export_artefacts(model: "SentenceTransformer", folder: Path, parent: Path | None) -> str:
    """Writes model/, tokenizer.json and encoder.onnx into `folder`; returns the engine that can serve them. `parent` is
    the folder of the release whose weights were trained further.

    A model that cannot be exported, or whose export differs, is served by torch: a release is never blocked by it.
    """
    model.save(str(folder / "model"))
    # A model with two encoders keeps one in the folder of each.
    tokenizers = sorted((folder / "model").rglob("tokenizer.json"), key=lambda path: len(path.parts))
    if not tokenizers:
        log.warning("the model has no tokenizer.json: it will be served by torch")
        return "torch"
    shutil.copyfile(tokenizers[0], folder / "tokenizer.json")
    if any(type(module).__name__ == "Router" for module in model):
        log.warning("the model encodes queries and documents by different parts: it will be served by torch")
        return "torch"
    if parent is not None and (parent / EXPORT).exists():
        try:
            _write_weights(model, parent, folder)
            _check_export(model, folder)
            return WHOLE
        except Exception as error:
            log.info("the graph of %s cannot be taken (%s): the model is traced anew", parent.name, error)
            _remove(folder, EXPORT)
    try:
        _export_onnx(model, folder / EXPORT)
        _check_export(model, folder)
    except Exception as error:
        log.warning("the export to ONNX failed (%s): the release will be served by torch", error)
        _remove(folder, EXPORT)
        return "torch"
    return WHOLE


def quantise(folder: Path) -> None:
    """Writes, beside the exported encoder, one whose matrices have a byte for each weight and a scale for each output;
    what they are multiplied with gets its scale anew at every call ("dynamic"). Raises ModelError.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    muted = logging.root.manager.disable
    try:
        logging.disable(logging.WARNING)  # it speaks to the root logger of what only matters for images
        quantize_dynamic(
            folder / EXPORT,
            folder / SMALL_EXPORT,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            use_external_data_format=True,
            extra_options={"MatMulConstBOnly": True},
        )
        for name in _written(folder, SMALL_EXPORT):
            shutil.copymode(folder / EXPORT, folder / name)  # weights are written for their owner's eyes only
    except Exception as error:
        _remove(folder, SMALL_EXPORT)
        raise ModelError(f"the encoder in {folder} cannot be quantised: {error}") from error
    finally:
        logging.disable(muted)


def _write_weights(model: "SentenceTransformer", parent: Path, folder: Path) -> None:
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
        if len(places) != 1:
            raise ModelError(f"{len(places)} weights of its model are like {name}")
        ((found, transposed),) = places
        self.found.add(found)
        return self._after[found].T if transposed else self._after[found]


def _arrays(model: "SentenceTransformer") -> dict[str, Array]:
    tensors = model.state_dict().items()
    return {name: tensor.detach().cpu().numpy() for name, tensor in tensors if tensor.is_floating_point()}


def _key(array: Array) -> tuple[tuple[int, ...], bytes]:
    return array.shape, hashlib.sha256(array.tobytes()).digest()


def _export_onnx(model: "SentenceTransformer", path: Path) -> None:
    import torch

    class Sentence(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: "torch.Tensor", attention_mask: "torch.Tensor") -> Any:
            features = {"input_ids": input_ids, "attention_mask": attention_mask}
            return self.model(features)["sentence_embedding"]

    batch = torch.export.Dim("batch", min=1, max=4096)
    tokens = torch.export.Dim("tokens", min=2, max=int(model.max_seq_length or 512))
    ids = torch.randint(5, 50, (2, 9))
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0  # all ones would let the tracer drop the mask
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of what only matters for images
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            Sentence().eval().to("cpu"),
            (ids, mask),
            dynamo=True,
            verbose=False,
            input_names=["input_ids", "attention_mask"],
            output_names=["sentence_embedding"],
            dynamic_shapes=({0: batch, 1: tokens}, {0: batch, 1: tokens}),
        )
    assert program is not None
    program.save(str(path), external_data=True)


def _remove(folder: Path, export: str) -> None:
    for name in _written(folder, export):
        (folder / name).unlink(missing_ok=True)


def _written(folder: Path, export: str) -> list[str]:
    return artefacts([path.name for path in folder.iterdir()], export)


def _check_export(model: "SentenceTransformer", folder: Path) -> None:
    model.to("cpu")  # a GPU may round to fewer bits
    texts = ["a", "map that creates missing keys", "Return a new list that holds the items in ascending order. " * 4]
    session = onnxruntime.InferenceSession(str(folder / EXPORT), providers=["CPUExecutionProvider"])
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(int(model.max_seq_length or 512))
    expected = unit(np.asarray(model.encode(texts, prompt="", show_progress_bar=False)))
    for text, vector in zip(texts, expected, strict=True):
        ids = np.array([tokenizer.encode(text).ids], dtype=np.int64)
        (found,) = session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})
        cosine = float((unit(found)[0] * vector).sum())
        if cosine < MIN_COSINE:
            raise ModelError(f"the exported encoder differs from the model: cosine {cosine:.5f} < {MIN_COSINE}")
