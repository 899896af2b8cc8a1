import gc
import re
import shutil
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from encoded import DOCUMENTS, TEXTS, cosines

from clickloop.retriever.encoder import TorchEncoder, load_model
from clickloop.retriever.errors import ModelError
from clickloop.retriever.serving import TEMPLATE, OnnxEncoder, encode_documents, render, truncated
from clickloop.retriever.types import Document, Release

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


@pytest.mark.parametrize("text", TEXTS)
def test_queries_agree_with_torch(encoder: OnnxEncoder, model: "SentenceTransformer", text: str) -> None:
    expected = np.asarray(model.encode("ask " + text, prompt=""))
    assert cosines(encoder.query(text), expected)[0] > 0.9999


def test_documents_agree_with_torch(encoder: OnnxEncoder, model: "SentenceTransformer") -> None:
    texts = ["read " + render(TEMPLATE, document) for document in DOCUMENTS]
    assert min(cosines(encoder.documents(DOCUMENTS), np.asarray(model.encode(texts, prompt="")))) > 0.9999


def test_different_texts_get_different_vectors(encoder: OnnxEncoder) -> None:
    vectors = encoder.documents(DOCUMENTS)
    assert (vectors @ vectors.T - np.eye(len(vectors))).max() < 0.999


def test_documents_keep_their_order_whatever_their_lengths(encoder: OnnxEncoder) -> None:
    documents = [Document(str(i), text="word " * (i * 7 % 23 + 1) + str(i)) for i in range(40)]
    alone = np.concatenate([encoder.documents([document]) for document in documents])
    np.testing.assert_allclose(encoder.documents(documents), alone, atol=1e-5)


def test_no_documents_give_no_vectors(encoder: OnnxEncoder) -> None:
    assert encoder.documents([]).shape == (0, 32)


def test_a_repeated_query_gets_the_same_vector_that_nobody_can_change(encoder: OnnxEncoder) -> None:
    first = encoder.query("a map of words")
    np.testing.assert_array_equal(encoder.query("a map of words"), first)
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 1


def test_what_else_waits_does_not_change_the_vector_of_a_query(folder: Path, release: Release) -> None:
    texts = [f"{words} {number}" for number in range(6) for words in ("map of words", "sort the list of strings", "a")]
    alone = np.stack([OnnxEncoder(folder, release, threads=1).query(text) for text in texts])
    shared = OnnxEncoder(folder, release, threads=1)
    with ThreadPoolExecutor(len(texts)) as threads:
        together = np.stack(list(threads.map(shared.query, texts)))
    assert min(cosines(together, alone)) > 0.99999


@pytest.mark.parametrize("kind", [OnnxEncoder, TorchEncoder])
def test_an_encoder_that_nobody_uses_is_gone_at_once(folder: Path, release: Release, kind: type[OnnxEncoder]) -> None:
    """Its model takes 100 MB and more, and the next full garbage collection may be far."""
    encoder = kind(folder, release)
    encoder.query("a list")
    model = weakref.ref(encoder._model)
    gc.disable()
    try:
        del encoder
        assert model() is None
    finally:
        gc.enable()


def test_encoding_step_by_step_reports_progress(encoder: OnnxEncoder) -> None:
    done: list[int] = []
    parts = list(encode_documents(encoder, DOCUMENTS, done.append, step=4))
    assert done == [4, 6]
    assert [start for start, _ in parts] == [0, 4]
    joined = np.concatenate([vectors for _, vectors in parts])
    np.testing.assert_allclose(joined, encoder.documents(DOCUMENTS), atol=1e-5)


@pytest.mark.parametrize(
    ("document", "text"),
    [
        (Document("1", "Title", "text"), "Title\ntext"),
        (Document("2", "Title"), "Title"),
        (Document("3", text="text"), "text"),
        (Document("4", "{text}", "text"), "{text}\ntext"),
    ],
)
def test_the_template_keeps_titles_and_texts_as_they_are(document: Document, text: str) -> None:
    assert render(TEMPLATE, document) == text


@pytest.mark.parametrize("name", ["encoder.onnx", "encoder.onnx.data", "tokenizer.json"])
def test_a_changed_byte_is_noticed(folder: Path, release: Release, tmp_path: Path, name: str) -> None:
    copy = tmp_path / "release"
    shutil.copytree(folder, copy)
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(ModelError, match=name):
        OnnxEncoder(copy, release)


@pytest.mark.parametrize("name", ["encoder.onnx", "encoder.onnx.data"])
def test_a_missing_artefact_is_named(folder: Path, release: Release, tmp_path: Path, name: str) -> None:
    copy = tmp_path / "release"
    shutil.copytree(folder, copy)
    (copy / name).unlink()
    with pytest.raises(ModelError, match=re.escape(f"{name} is missing")):
        OnnxEncoder(copy, release)


def test_changed_weights_are_noticed_by_torch_too(folder: Path, release: Release, tmp_path: Path) -> None:
    copy = tmp_path / "release"
    shutil.copytree(folder, copy)
    with (copy / "model" / "model.safetensors").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        TorchEncoder(copy, release)


def test_torch_and_onnx_encode_a_release_alike(folder: Path, release: Release, encoder: OnnxEncoder) -> None:
    by_torch = TorchEncoder(folder, release)
    assert cosines(by_torch.query("sort a list"), encoder.query("sort a list"))[0] > 0.9999
    # Documents may be encoded in bfloat16.
    assert min(cosines(by_torch.documents(DOCUMENTS), encoder.documents(DOCUMENTS))) > 0.99
    assert by_torch.documents([]).shape == (0, 32)


def test_documents_longer_than_the_model_reads_are_counted(folder: Path, release: Release) -> None:
    plain = replace(release, document_prompt="")
    fits = Document("fits", text="a " * 30)  # and [CLS] and [SEP]: 32 tokens
    longer = Document("longer", text="a " * 31)
    assert truncated(folder, plain, [fits, longer, Document("short", text="a"), longer]) == 2
    assert truncated(folder, plain, []) == 0


def test_what_is_cut_because_of_the_prompt_is_counted_too(folder: Path, release: Release) -> None:
    assert truncated(folder, release, [Document("fits without the prompt", text="a " * 30)]) == 1


def test_a_model_that_cannot_be_loaded_is_named_with_the_remedy() -> None:
    with pytest.raises(ModelError, match="someone/no-such-model") as caught:
        load_model("someone/no-such-model")
    assert "name a folder" in str(caught.value)


def test_a_limit_on_tokens_only_shortens(tiny_model: Path) -> None:
    assert load_model(str(tiny_model), max_tokens=16).max_seq_length == 16
    assert load_model(str(tiny_model), max_tokens=512).max_seq_length == 32


@pytest.mark.parametrize("room", [3, 0])
def test_a_gpu_without_room_encodes_fewer_documents_at_a_time(
    room: int, folder: Path, release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from sentence_transformers import SentenceTransformer

    forward = SentenceTransformer.forward

    def limited(self: SentenceTransformer, features: dict[str, torch.Tensor], **kwargs: object) -> object:
        if len(features["input_ids"]) > room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return forward(self, features, **kwargs)

    encoder = TorchEncoder(folder, release)
    expected = encoder.documents(DOCUMENTS)
    monkeypatch.setattr(SentenceTransformer, "forward", limited)
    if room == 0:
        with pytest.raises(ModelError, match=r"a single text of up to 32 tokens.*smaller max_tokens"):
            encoder.documents(DOCUMENTS)
    else:
        assert min(cosines(encoder.documents(DOCUMENTS), expected)) > 0.999
        encoder.documents(DOCUMENTS)  # it remembers what fits
