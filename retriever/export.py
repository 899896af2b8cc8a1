"""A model exported for serving: as a graph of ONNX with its weights, whole and quantised.

torch and onnx are imported inside the functions that need them, as in the encoder.
"""

import logging
import shutil
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

from .attention import pack_attention
from .errors import ModelError
from .serving import EXPORT, SMALL_EXPORT, WHOLE, artefacts, encoded, unit
from .weights import write_weights

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

Way = Callable[["SentenceTransformer", Path], None]  # writes an export of the model into the folder

log = logging.getLogger(__name__)

OPSET = 20
ATTENTION_OPSET = 23  # the first one in which attention is a step; ONNX Runtime computes not every step of it
MIN_COSINE = 0.9999  # between the export and the model it was made from


def export_artefacts(model: "SentenceTransformer", folder: Path, parent: Path | None) -> str:
    """Writes model/, tokenizer.json and encoder.onnx into `folder`; returns the engine that can serve them. `parent` is
    the folder of the release whose weights were trained further.

    A model that cannot be exported, or whose export differs, is served by torch: a release is never blocked by it.
    """
    # A card would go from release to release; one that a training wrote quotes what people asked.
    model.save(str(folder / "model"), create_model_card=False)
    # A model with two encoders keeps one in the folder of each.
    tokenizers = sorted((folder / "model").rglob("tokenizer.json"), key=lambda path: len(path.parts))
    if not tokenizers:
        log.warning("the model has no tokenizer.json: it will be served by torch")
        return "torch"
    shutil.copyfile(tokenizers[0], folder / "tokenizer.json")
    if any(type(module).__name__ == "Router" for module in model):
        log.warning("the model encodes queries and documents by different parts: it will be served by torch")
        return "torch"
    ways: list[Way] = [_packed_export, _plain_export]
    if parent is not None and (parent / EXPORT).exists():
        ways.insert(0, partial(write_weights, parent=parent))
    for way in ways:
        try:
            way(model, folder)
            _check_export(model, folder)
            return WHOLE
        except Exception as error:
            reason = error
            log.info("one way of exporting fails: %s", error)
            _remove(folder, EXPORT)
    log.warning("the export to ONNX failed (%s): the release will be served by torch", reason)
    return "torch"


def _packed_export(model: "SentenceTransformer", folder: Path) -> None:
    """With attention as one step. Raises ModelError where the model has another kind of it."""
    program = _traced(model, ATTENTION_OPSET)
    if not pack_attention(program.model, "attention_mask"):
        raise ModelError("its attention cannot be packed")
    program.save(folder / EXPORT, external_data=True)


def _plain_export(model: "SentenceTransformer", folder: Path) -> None:
    _traced(model, OPSET).save(folder / EXPORT, external_data=True)


def _traced(model: "SentenceTransformer", opset: int) -> "torch.onnx.ONNXProgram":
    import torch

    class Sentence(torch.nn.Module):  # type: ignore[misc]
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
            opset_version=opset,
            verbose=False,
            input_names=["input_ids", "attention_mask"],
            output_names=["sentence_embedding"],
            dynamic_shapes=({0: batch, 1: tokens}, {0: batch, 1: tokens}),
        )
    assert program is not None
    return program


def _check_export(model: "SentenceTransformer", folder: Path) -> None:
    """Alone and side by side, from one word to all that the model reads. Raises ModelError."""
    model.to("cpu")  # a GPU may round to fewer bits
    texts = ["a", "map that creates missing keys", "Return a new list that holds the items in ascending order. " * 50]
    session = onnxruntime.InferenceSession(str(folder / EXPORT), providers=["CPUExecutionProvider"])
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(int(model.max_seq_length or 512))
    tokens = [tokenizer.encode(text) for text in texts]
    expected = unit(np.asarray(model.encode(texts, prompt="", show_progress_bar=False)))
    for found in (np.concatenate([encoded(session, [one]) for one in tokens]), encoded(session, tokens)):
        cosine = float((found * expected).sum(axis=1).min())
        if not cosine >= MIN_COSINE:
            raise ModelError(f"the exported encoder differs from the model: cosine {cosine:.5f} < {MIN_COSINE}")


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
            op_types_to_quantize=["MatMul", "Gemm", "Attention"],
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


def _remove(folder: Path, export: str) -> None:
    for name in _written(folder, export):
        (folder / name).unlink(missing_ok=True)


def _written(folder: Path, export: str) -> list[str]:
    return artefacts([path.name for path in folder.iterdir()], export)
