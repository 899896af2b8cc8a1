import gc
import shutil
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from clickloop.retriever.database import Database
from clickloop.retriever.encoder import (
    QUANTISED,
    TEMPLATE,
    WHOLE,
    OnnxEncoder,
    TorchEncoder,
    encode_documents,
    load_model,
    open_encoder,
    render,
    truncated,
)
from clickloop.retriever.errors import ModelError
from clickloop.retriever.model import sha256
from clickloop.retriever.releases import Releases
from clickloop.retriever.types import Document, Release, Vectors

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

TEXTS = ["a", "map that creates missing keys", "", "sort the list " * 30, "Größe, 検索 🙂", "x y z"]
DOCUMENTS = [Document(str(i), title=f"title {i}", text=text) for i, text in enumerate(TEXTS)]


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> "SentenceTransformer":
    """The tiny model with prompts, as retrieval models have them."""
    loaded = load_model(str(tiny_model))
    loaded.prompts = {"query": "ask ", "document": "read "}
    return loaded


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Releases]:
    folder = tmp_path_factory.mktemp("encoder")
    database = Database(f"sqlite:///{folder / 'clickloop.db'}")
    yield Releases(database, folder / "releases")
    database.close()


@pytest.fixture(scope="module")
def release(releases: Releases, model: "SentenceTransformer") -> Release:
    return releases.make(model, parent=None, lineage={"model": "tiny"})


@pytest.fixture(scope="module")
def folder(releases: Releases, release: Release) -> Path:
    return releases.folder(release.id)


@pytest.fixture(scope="module")
def encoder(folder: Path, release: Release) -> OnnxEncoder:
    return OnnxEncoder(folder, release, threads=1)


@pytest.fixture
def failing_export(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("this architecture cannot be exported")

    monkeypatch.setattr("clickloop.retriever.encoder._export_onnx", fail)


def cosines(left: Vectors, right: Vectors) -> list[float]:
    np.testing.assert_allclose(np.linalg.norm(left, axis=-1), 1, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(right, axis=-1), 1, atol=1e-5)
    return [float(cosine) for cosine in (np.atleast_2d(left) * np.atleast_2d(right)).sum(axis=1)]


def test_a_release_is_exported_for_serving(releases: Releases, release: Release) -> None:
    assert release.engine == "onnx"
    assert (release.dimension, release.max_tokens) == (32, 32)
    assert (release.query_prompt, release.document_prompt, release.template) == ("ask ", "read ", TEMPLATE)
    assert {"encoder.onnx", "tokenizer.json", "model/model.safetensors"} <= set(release.checksums)
    assert releases.get(release.id) == release
    assert release in releases.list()
    assert releases.whole(release.id)


def test_the_checksums_cover_every_artefact(release: Release, folder: Path) -> None:
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    del files["release.json"]
    assert {name: sha256(path) for name, path in files.items()} == release.checksums


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


@pytest.mark.parametrize("name", ["encoder.onnx", "tokenizer.json"])
def test_a_changed_byte_is_noticed(folder: Path, release: Release, tmp_path: Path, name: str) -> None:
    copy = tmp_path / "release"
    shutil.copytree(folder, copy)
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(ModelError, match=name):
        open_encoder(copy, release)


def test_a_missing_artefact_is_named(folder: Path, release: Release, tmp_path: Path) -> None:
    copy = tmp_path / "release"
    shutil.copytree(folder, copy)
    (copy / "encoder.onnx").unlink()
    with pytest.raises(ModelError, match=r"encoder\.onnx"):
        open_encoder(copy, release)


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


@pytest.mark.usefixtures("failing_export")
def test_a_model_that_cannot_be_exported_is_served_by_torch(
    releases: Releases, model: "SentenceTransformer", encoder: OnnxEncoder
) -> None:
    release = releases.make(model, parent=None, lineage={})
    folder = releases.folder(release.id)
    assert release.engine == "torch"
    assert releases.whole(release.id)
    assert not (folder / "encoder.onnx").exists()
    served = open_encoder(folder, release)
    assert cosines(served.query("split a string"), encoder.query("split a string"))[0] > 0.9999
    assert served.documents(DOCUMENTS).shape == (len(DOCUMENTS), 32)
    assert truncated(folder, release, DOCUMENTS) == 1


@pytest.fixture
def exported_before(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An export costs seconds: take the one at hand, which is right for the tiny model only."""

    def copy(_: object, path: Path) -> None:
        shutil.copyfile(folder / "encoder.onnx", path)

    monkeypatch.setattr("clickloop.retriever.encoder._export_onnx", copy)


@pytest.mark.usefixtures("exported_before")
def test_an_export_that_encodes_differently_is_not_served(
    releases: Releases, tiny_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert releases.make(load_model(str(tiny_model)), parent=None, lineage={}).engine == "onnx"
    other = load_model(str(tiny_model))
    next(other.parameters()).data.mul_(-0.5)
    assert releases.make(other, parent=None, lineage={}).engine == "torch"
    assert "differs from the model" in caplog.text


@pytest.mark.usefixtures("exported_before")
def test_quantised_queries_are_encoded_one_by_one_and_a_release_is_never_blocked_by_them(
    releases: Releases, tiny_model: Path, encoder: OnnxEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(str(tiny_model))
    model.prompts = {"query": "ask ", "document": "read "}
    release = releases.make(model, parent=None, lineage={}, quantised=True)
    assert release.engine == QUANTISED
    assert "encoder.int8.onnx" in release.checksums
    small = open_encoder(releases.folder(release.id), release)
    alone = [small.query(text) for text in TEXTS]
    fresh = open_encoder(releases.folder(release.id), release)
    with ThreadPoolExecutor(len(TEXTS)) as threads:
        together = list(threads.map(fresh.query, TEXTS))
    assert np.array_equal(alone, together), "company changes no vector"
    assert 0.9 < min(cosines(np.stack(alone), np.stack([encoder.query(text) for text in TEXTS]))) < 0.99999

    monkeypatch.setattr("onnxruntime.quantization.quantize_dynamic", lambda *_, **__: 1 / 0)
    assert releases.make(model, parent=None, lineage={}, quantised=True).engine == WHOLE


@pytest.mark.usefixtures("exported_before")
def test_a_prompt_is_put_before_a_text_once(releases: Releases, tiny_model: Path, encoder: OnnxEncoder) -> None:
    prompted = load_model(str(tiny_model))
    prompted.prompts = {"query": "ask ", "document": "read "}
    prompted.default_prompt_name = "query"
    release = releases.make(prompted, parent=None, lineage={})
    assert release.engine == "onnx"
    by_torch = TorchEncoder(releases.folder(release.id), release)
    assert cosines(by_torch.query("sort a list"), encoder.query("sort a list"))[0] > 0.9999
    assert min(cosines(by_torch.documents(DOCUMENTS), encoder.documents(DOCUMENTS))) > 0.99


@pytest.mark.usefixtures("exported_before")
@pytest.mark.parametrize("name", ["document", "passage", "corpus"])
def test_the_prompt_of_documents_has_several_names(releases: Releases, tiny_model: Path, name: str) -> None:
    prompted = load_model(str(tiny_model))
    prompted.prompts = {"query": "ask ", name: "read "}
    assert releases.make(prompted, parent=None, lineage={}).document_prompt == "read "


def test_a_model_of_another_pooling_and_dimension_is_exported(releases: Releases, tiny_model: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Pooling, Transformer

    modules = [Transformer(str(tiny_model), max_seq_length=32), Pooling(32, pooling_mode="cls"), Dense(32, 24)]
    model = SentenceTransformer(modules=modules, device="cpu")
    release = releases.make(model, parent=None, lineage={})
    assert (release.engine, release.dimension) == ("onnx", 24)
    served = open_encoder(releases.folder(release.id), release)
    expected = np.asarray(model.encode(["sort a list", "map"], normalize_embeddings=True))
    assert min(cosines(np.stack([served.query("sort a list"), served.query("map")]), expected)) > 0.9999


def test_queries_and_documents_of_an_asymmetric_model_get_their_own_encoder(
    releases: Releases, tiny_model: Path
) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Router, Transformer

    parts = [
        [Transformer(str(tiny_model), max_seq_length=32), Pooling(32, pooling_mode=how)] for how in ("max", "mean")
    ]
    model = SentenceTransformer(modules=[Router.for_query_document(*parts)], device="cpu")
    release = releases.make(model, parent=None, lineage={})
    assert release.engine == "torch"
    folder = releases.folder(release.id)
    served = open_encoder(folder, release)
    expected = model.encode_query(["sort a list"], normalize_embeddings=True)
    assert cosines(served.query("sort a list"), np.asarray(expected)[0])[0] > 0.9999
    texts = [render(TEMPLATE, document) for document in DOCUMENTS]
    expected = model.encode_document(texts, normalize_embeddings=True)
    assert min(cosines(served.documents(DOCUMENTS), np.asarray(expected))) > 0.99
    assert cosines(served.query("sort a list"), served.documents([Document("1", text="sort a list")])[0])[0] < 0.99
    assert truncated(folder, release, DOCUMENTS) == 1


def test_a_model_by_a_known_name_gets_the_prompts_that_its_authors_tell(tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "e5-small-v2")
    assert load_model(str(tiny_model)).prompts == {"query": "", "document": ""}
    model = load_model(str(tmp_path / "e5-small-v2"))
    assert (model.prompts["query"], model.prompts["document"]) == ("query: ", "passage: ")
    model.save(str(tmp_path / "trained"))
    assert load_model(str(tmp_path / "trained")).prompts == model.prompts


def test_an_interrupted_release_is_not_whole_and_can_be_made_again(
    database: Database, model: "SentenceTransformer", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: object, path: Path) -> None:
        path.write_bytes(b"half an export")
        raise KeyboardInterrupt

    releases = Releases(database, tmp_path / "releases")
    with monkeypatch.context() as patch:
        patch.setattr("clickloop.retriever.encoder._export_onnx", interrupted)
        with pytest.raises(KeyboardInterrupt):
            releases.make(model, parent=None, lineage={}, release_id="release-1")
    assert not releases.folder("release-1").exists(), "what can be cleared away at once is"
    releases.folder("release-1").mkdir()
    (releases.folder("release-1") / "encoder.onnx").write_bytes(b"what a kill leaves")
    assert not releases.whole("release-1")
    assert releases.list() == []
    with pytest.raises(ModelError, match="release-1"):
        releases.get("release-1")
    made = releases.make(model, parent=None, lineage={}, release_id="release-1")
    assert releases.whole("release-1")
    assert open_encoder(releases.folder("release-1"), made, threads=1).query("a").shape == (32,)


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
