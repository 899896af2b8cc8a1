"""A model exported for serving: as a graph of ONNX with its weights, whole and quantised.

torch and onnx are imported inside the functions that need them, as in the encoder.
"""

import logging
import shutil
import warnings
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

log = logging.getLogger(__name__)

OPSET = 20
ATTENTION_OPSET = 23  # the first one in which attention is a step; ONNX Runtime computes not every step of it
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
            write_weights(model, parent, folder)
            _check_export(model, folder)
            return WHOLE
        except Exception as error:
            log.info("the graph of %s cannot be taken (%s): the model is traced anew", parent.name, error)
            _remove(folder, EXPORT)
    try:
        _export_onnx(model, folder)
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


def _export_onnx(model: "SentenceTransformer", folder: Path) -> None:
    """With packed attention, or where that cannot be as it is traced."""
    try:
        program = _traced(model, ATTENTION_OPSET)
        if pack_attention(program.model, "attention_mask"):
            program.save(folder / EXPORT, external_data=True)
            _check_export(model, folder)
            return
    except Exception as error:
        log.info("attention is not packed: %s", error)
    _traced(model, OPSET).save(folder / EXPORT, external_data=True)


def _traced(model: "SentenceTransformer", opset: int) -> "torch.onnx.ONNXProgram":
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
            opset_version=opset,
            verbose=False,
            input_names=["input_ids", "attention_mask"],
            output_names=["sentence_embedding"],
            dynamic_shapes=({0: batch, 1: tokens}, {0: batch, 1: tokens}),
        )
    assert program is not None
    return program


def _remove(folder: Path, export: str) -> None:
    for name in _written(folder, export):
        (folder / name).unlink(missing_ok=True)


def _written(folder: Path, export: str) -> list[str]:
    return artefacts([path.name for path in folder.iterdir()], export)


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
