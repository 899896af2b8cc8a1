"""Text to vectors: what an encoder is, and the one that serves, by ONNX Runtime."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import onnxruntime
from tokenizers import Encoding, Tokenizer

from .errors import ModelError
from .model import check_sha256
from .query_encoder import QueryEncoder
from .types import Document, Release, Vectors

T = TypeVar("T")

TEMPLATE = "{title}\n{text}"
SPIN_US = 1_000
BATCH = 8  # texts of like length; on a CPU larger batches only add padding
WHOLE, QUANTISED = "onnx", "onnx-int8"  # engines of a release
EXPORT = "encoder.onnx"
SMALL_EXPORT = "encoder.int8.onnx"


class Encoder(Protocol):
    def query(self, text: str) -> Vectors:
        """One vector (dimension,), of length 1."""
        ...

    def documents(self, documents: Sequence[Document]) -> Vectors:
        """One row a document (n × dimension), each of length 1."""
        ...


def artefacts(names: Iterable[str], export: str) -> list[str]:
    """The files of an exported encoder among these names: the graph, and its weights, which sessions map into memory
    and so share.
    """
    return [export, *(name for name in names if name.startswith(f"{export}."))]


def render(template: str, document: Document) -> str:
    """The text of a document that is encoded. Documents without a title, or without a text, keep no empty line."""
    return template.format(title=document.title, text=document.text).strip()


class OnnxEncoder:
    """Encodes with the exported model; safe to use from several threads. Documents are always encoded in fp32."""

    def __init__(self, folder: Path, release: Release, threads: int = 0) -> None:
        """`threads` for all calls; 0 takes all cores. Raises ModelError when an artefact is missing or damaged."""
        threads = threads or os.cpu_count() or 1
        quantised = release.engine == QUANTISED
        model = self._model = _Onnx(folder, release, EXPORT, threads, queries=not quantised)
        self._release = release
        if quantised:
            small = _Onnx(folder, release, SMALL_EXPORT, threads, queries=True)
            # One by one: the scales of a call come from all that is in it, so that company would change a vector.
            self._queries = QueryEncoder(small.query_tokens, len, small.encode, small.encode_beside, threads, most=1)
        else:
            self._queries = QueryEncoder(model.query_tokens, len, model.encode, model.encode_beside, threads)

    def query(self, text: str) -> Vectors:
        return self._queries.query(text)

    def documents(self, documents: Sequence[Document]) -> Vectors:
        texts = [self._release.document_prompt + render(self._release.template, document) for document in documents]
        vectors = np.empty((len(texts), self._release.dimension), dtype=np.float32)
        for chosen in by_length(texts, BATCH):
            vectors[chosen] = self._model.encode(self._model.tokens([texts[i] for i in chosen]))
        return vectors


class _Onnx:
    """The exported model with its tokenizer. What remembers queries calls it, and must not hold the encoder that holds
    it: in a circle the 100 MB of a retired release stay until some full garbage collection.
    """

    def __init__(self, folder: Path, release: Release, export: str, threads: int, queries: bool) -> None:
        """`queries` readies it for calls beside each other."""
        for name in (*artefacts(release.checksums, export), "tokenizer.json"):
            check_sha256(folder / name, release.checksums.get(name, ""))
        try:
            self._session = _session(folder / export, threads)
            # A session has its threads for life: calls on one core beside each other need one of their own.
            self._narrow = _session(folder / export, 1) if queries and threads > 1 else self._session
            self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:
            raise ModelError(f"release {release.id} cannot be loaded from {folder}: {error}") from error
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(release.max_tokens)
        self._query_prompt = release.query_prompt

    def query_tokens(self, text: str) -> Encoding:
        return self._tokenizer.encode(self._query_prompt + text)

    def tokens(self, texts: Sequence[str]) -> list[Encoding]:
        found: list[Encoding] = self._tokenizer.encode_batch(texts)
        return found

    def encode(self, encodings: list[Encoding]) -> Vectors:
        """On all cores."""
        return encoded(self._session, encodings)

    def encode_beside(self, encodings: list[Encoding]) -> Vectors:
        """On one core, beside other calls."""
        return encoded(self._narrow, encodings)


def _session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Between the parts of a call they spin, which takes a tenth off a query. By default they go on for a second or
    # more after its end, on the cores that answer.
    options.add_session_config_entry("session.intra_op.spin_duration_us", str(SPIN_US))
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def encoded(session: onnxruntime.InferenceSession, encodings: list[Encoding]) -> Vectors:
    """One row a text, of length 1; shorter ones are padded to the longest."""
    width = max(len(encoding.ids) for encoding in encodings)
    ids = np.zeros((len(encodings), width), dtype=np.int64)
    mask = np.zeros((len(encodings), width), dtype=np.int64)
    for row, encoding in enumerate(encodings):
        ids[row, : len(encoding.ids)] = encoding.ids
        mask[row, : len(encoding.ids)] = 1
    (vectors,) = session.run(None, {"input_ids": ids, "attention_mask": mask})
    return unit(vectors)


def encode_ahead(
    encoder: Encoder, batches: Iterable[T], documents: Callable[[T], Sequence[Document]]
) -> Iterator[tuple[T, Vectors]]:
    """Yields every batch with the vectors of its documents; the next one is encoded while the caller stores them."""
    with ThreadPoolExecutor(1, "encoding") as thread:
        ahead: deque[tuple[T, Future[Vectors]]] = deque()
        for batch in batches:
            ahead.append((batch, thread.submit(encoder.documents, documents(batch))))
            if len(ahead) > 1:
                done, vectors = ahead.popleft()
                yield done, vectors.result()
        for done, vectors in ahead:
            yield done, vectors.result()


def encode_documents(
    encoder: Encoder, documents: Sequence[Document], progress: Callable[[int], None], step: int = 256
) -> Iterator[tuple[int, Vectors]]:
    """Yields (position of the first, vectors) for every `step` documents and reports how many are done."""
    starts = range(0, len(documents), step)
    for start, vectors in encode_ahead(encoder, starts, lambda start: documents[start : start + step]):
        yield start, vectors
        progress(start + len(vectors))


def truncated(folder: Path, release: Release, documents: Sequence[Document]) -> int:
    """How many of the documents are longer than the model reads, so that their ends are not searchable."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    texts = [release.document_prompt + render(release.template, document) for document in documents]
    return sum(len(encoding.ids) > release.max_tokens for encoding in tokenizer.encode_batch_fast(texts))


def by_length(texts: Sequence[str], size: int) -> Iterator[list[int]]:
    """Positions of the texts in batches of like length, which keeps padding small."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    for start in range(0, len(order), size):
        yield order[start : start + size]


def unit(vectors: npt.NDArray[np.float32]) -> Vectors:
    """Rows scaled to length 1; a row of zeros stays one."""
    scaled: Vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
    return scaled
