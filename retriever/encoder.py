"""The model as torch has it: loaded to be trained, encoding whole corpora, and exported for serving.

torch and sentence-transformers are imported inside the functions that need them: a process that only serves ONNX
releases never loads them.
"""

import logging
import shutil
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

from .errors import ModelError
from .model import check_sha256
from .prompts import prompts_of
from .query_encoder import QueryEncoder
from .serving import BATCH, EXPORT, SMALL_EXPORT, WHOLE, artefacts, render, unit
from .types import Document, Release, Vectors

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

log = logging.getLogger(__name__)

GPU_BATCH = 256
MIN_COSINE = 0.9999  # between the export and the model it was made from


def load_model(name_or_folder: str, max_tokens: int | None = None) -> "SentenceTransformer":
    """The trainable model, on the best device. Raises ModelError with the remedy when it cannot be had."""
    from sentence_transformers import SentenceTransformer

    quiet_transformers()
    try:
        model = SentenceTransformer(name_or_folder, device=best_device())
    except Exception as error:
        raise ModelError(
            f"model: {name_or_folder!r} cannot be loaded ({str(error).splitlines()[0][:200]}): name a folder, install "
            "clickloop[offline] for all-MiniLM-L6-v2, or allow access to the Hugging Face hub"
        ) from error
    query, document = prompts_of(name_or_folder, model.prompts or {})
    model.prompts = {**(model.prompts or {}), "query": query, "document": document}
    if max_tokens is not None:
        model.max_seq_length = min(max_tokens, int(model.max_seq_length or max_tokens))
    return model


def best_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def has_bfloat16() -> bool:
    """Whether bf16 arithmetic is done in hardware here."""
    import torch

    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    cpu = torch.backends.cpu.get_cpu_capability()
    return bool(cpu.startswith("AVX512") and torch.cpu._is_avx512_bf16_supported())


def quiet_transformers() -> None:
    """Progress bars of loading weights have no place in a service's log."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]


class TorchEncoder:
    """Encodes with torch: bf16 where the processor or the GPU has it, which halves the time of a corpus."""

    def __init__(self, folder: Path, release: Release) -> None:
        self._model = _Torch(folder, release)
        self._release = release
        encode = partial(self._model.encode, half=False, task="query")
        self._queries = QueryEncoder(release.query_prompt.__add__, len, encode)

    def query(self, text: str) -> Vectors:
        return self._queries.query(text)

    def documents(self, documents: Sequence[Document]) -> Vectors:
        texts = [self._release.document_prompt + render(self._release.template, document) for document in documents]
        return self._model.encode(texts, half=has_bfloat16(), task="document")


class _Torch:
    """The model, apart from its encoder as in `_Onnx`."""

    def __init__(self, folder: Path, release: Release) -> None:
        from sentence_transformers import SentenceTransformer

        quiet_transformers()
        for name, checksum in release.checksums.items():
            if name.endswith((".safetensors", ".bin")):
                check_sha256(folder / name, checksum)
        try:
            self._model = SentenceTransformer(str(folder / "model"), device=best_device(), local_files_only=True)
        except Exception as error:
            raise ModelError(f"release {release.id} cannot be loaded from {folder / 'model'}: {error}") from error
        self._model.max_seq_length = release.max_tokens
        self._dimension = release.dimension
        self._batch = GPU_BATCH if self._model.device.type == "cuda" else BATCH

    def encode(self, texts: list[str], half: bool, task: str) -> Vectors:
        """`task` tells a model with two encoders which one to take."""
        import torch

        if not texts:
            return np.empty((0, self._dimension), dtype=np.float32)
        device = self._model.device.type
        with torch.autocast(device, dtype=torch.bfloat16, enabled=half):
            while True:
                try:
                    vectors = self._model.encode(
                        texts, prompt="", batch_size=self._batch, show_progress_bar=False, task=task
                    )
                    break
                except torch.OutOfMemoryError as error:
                    self._halve(error)
                torch.cuda.empty_cache()
        return unit(np.asarray(vectors, dtype=np.float32).reshape(len(texts), self._dimension))

    def _halve(self, error: Exception) -> None:
        """Raises ModelError that names the setting to change when single texts are too large already."""
        if self._batch == 1:
            raise ModelError(
                f"the GPU has no room to encode a single text of up to {self._model.max_seq_length} tokens: end what "
                f"else runs there, or begin with a smaller max_tokens ({error})"
            ) from error
        self._batch //= 2
        log.warning("the GPU has no room: documents are encoded %d at a time", self._batch)


def export_artefacts(model: "SentenceTransformer", folder: Path) -> str:
    """Writes model/, tokenizer.json and encoder.onnx into `folder`; returns the engine that can serve them.

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
