"""What a release is made of, and which engine may serve it."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from encoded import DOCUMENTS, TEXTS, cosines

from clickloop.retriever.attention import pack_attention
from clickloop.retriever.database import Database
from clickloop.retriever.encoder import TorchEncoder, load_model
from clickloop.retriever.errors import ModelError, NoRoom
from clickloop.retriever.model import sha256
from clickloop.retriever.releases import Releases
from clickloop.retriever.serving import QUANTISED, TEMPLATE, WHOLE, OnnxEncoder, render, truncated
from clickloop.retriever.types import Document, Release

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


@pytest.fixture
def failing_export(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("this architecture cannot be exported")

    monkeypatch.setattr("clickloop.retriever.export._traced", fail)


def test_a_release_is_exported_for_serving(releases: Releases, release: Release) -> None:
    assert release.engine == "onnx"
    assert (release.dimension, release.max_tokens) == (32, 32)
    assert (release.query_prompt, release.document_prompt, release.template) == ("ask ", "read ", TEMPLATE)
    assert {"encoder.onnx", "encoder.onnx.data", "tokenizer.json", "model/model.safetensors"} <= set(release.checksums)
    assert releases.get(release.id) == release
    assert release in releases.list()
    assert releases.whole(release.id)


def steps(folder: Path) -> list[str]:
    graph = onnx.load(folder / "encoder.onnx", load_external_data=False).graph
    return [f"{node.domain}:{node.op_type}" for node in graph.node]


def test_attention_is_one_step_of_the_export(folder: Path) -> None:
    found = steps(folder)
    assert found.count("com.microsoft:Attention") == 1
    assert found.count(":MatMul") == 3, "its projections are a part of it"
    assert not {":Softmax", ":Transpose"} & set(found)


@pytest.mark.parametrize("hides", ["more", "less"])
def test_attention_that_would_hide_other_things_than_padding_is_exported_as_it_was_traced(
    releases: Releases, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, hides: str
) -> None:
    from sentence_transformers import SentenceTransformer

    def pack(graph: Any, padding: str) -> bool:
        packed = pack_attention(graph, padding)
        if hides == "less":
            (step,) = (node for node in graph.graph if node.op_type == "Attention")
            step.replace_input_with(3, None)
        return packed

    monkeypatch.setattr("clickloop.retriever.export.pack_attention", pack)
    model = SentenceTransformer(str(tiny_model), device="cpu", config_kwargs={"is_decoder": hides == "more"})
    release = releases.make(model, parent=None, lineage={})
    assert release.engine == WHOLE
    assert ":Softmax" in steps(releases.folder(release.id))
    served, expected = releases.encoder(release), model.encode(TEXTS, normalize_embeddings=True)
    assert min(cosines(np.stack([served.query(text) for text in TEXTS]), np.asarray(expected))) > 0.9999


def test_the_checksums_cover_every_artefact(release: Release, folder: Path) -> None:
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    del files["release.json"]
    assert {name: sha256(path) for name, path in files.items()} == release.checksums


@pytest.mark.usefixtures("failing_export")
def test_a_model_that_cannot_be_exported_is_served_by_torch(
    releases: Releases, model: "SentenceTransformer", encoder: OnnxEncoder
) -> None:
    release = releases.make(model, parent=None, lineage={})
    folder = releases.folder(release.id)
    assert release.engine == "torch"
    assert releases.whole(release.id)
    assert not (folder / "encoder.onnx").exists()
    served = releases.encoder(release)
    assert cosines(served.query("split a string"), encoder.query("split a string"))[0] > 0.9999
    assert served.documents(DOCUMENTS).shape == (len(DOCUMENTS), 32)
    assert truncated(folder, release, DOCUMENTS) == 1


def test_a_release_is_not_begun_where_the_disk_has_no_room_for_it(
    releases: Releases, model: "SentenceTransformer", monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = sum(weight.nbytes for weight in model.parameters())
    free = SimpleNamespace(free=2 * weights)
    monkeypatch.setattr("clickloop.retriever.releases.shutil.disk_usage", lambda _folder: free)
    with pytest.raises(NoRoom, match="a release needs 1 MiB"):
        releases.make(model, parent=None, lineage={}, release_id="release-large")
    assert not releases.folder("release-large").exists()


def trained(folder: Path) -> "SentenceTransformer":
    """The model there, further on; its pooler has no part in the vectors and learns nothing."""
    model = load_model(str(folder))
    for name, parameter in model.named_parameters():
        if "pooler" not in name:
            parameter.data.mul_(0.9).add_(0.01)
    return model


@pytest.mark.usefixtures("failing_export")
def test_what_was_trained_further_takes_the_graph_of_its_parent(
    releases: Releases, release: Release, folder: Path, encoder: OnnxEncoder
) -> None:
    model = trained(folder / "model")
    child = releases.make(model, parent=release.id, lineage={})
    assert child.engine == WHOLE
    made = releases.folder(child.id)
    assert {path.name: path.stat().st_mode for path in made.glob("encoder.*")} == {
        path.name: path.stat().st_mode for path in folder.glob("encoder.*")
    }
    served, by_torch = releases.encoder(child), TorchEncoder(made, child)
    assert min(cosines(*(np.stack([by.query(text) for text in TEXTS]) for by in (served, by_torch)))) > 0.99999
    assert cosines(served.query("split a string"), encoder.query("split a string"))[0] < 0.9999


@pytest.mark.usefixtures("failing_export")
@pytest.mark.parametrize("reason", ["damaged", "two alike", "changed beside the graph", "of another shape"])
def test_where_the_graph_of_a_parent_cannot_be_taken_the_model_is_traced(
    releases: Releases, release: Release, folder: Path, tiny_model: Path, tmp_path: Path, reason: str
) -> None:
    from sentence_transformers import SentenceTransformer

    other = Releases(releases._database, tmp_path)
    shutil.copytree(folder, other.folder(release.id))
    model = trained(folder / "model")
    match reason:
        case "damaged":
            (other.folder(release.id) / "encoder.onnx").write_bytes(b"half a graph")
        case "two alike":
            parent = load_model(str(folder / "model"))
            attention = parent[0].auto_model.encoder.layer[0].attention.self
            attention.key.weight.data.copy_(attention.query.weight.data)
            parent.save(str(other.folder(release.id) / "model"))
        case "changed beside the graph":
            model[0].auto_model.pooler.dense.weight.data.mul_(2)
        case "of another shape":
            model = SentenceTransformer(modules=[*load_model(str(tiny_model)), _wider()], device="cpu")
    made = other.make(model, parent=release.id, lineage={})
    assert made.engine == "torch", "which is where tracing failed"
    assert not list(other.folder(made.id).glob("encoder.*"))


def _wider() -> Any:
    from sentence_transformers.sentence_transformer.modules import Dense

    return Dense(32, 48)


@pytest.fixture
def exported_before(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An export costs seconds: take the one at hand, which is right for the tiny model only."""

    def copy(_: object, into: Path) -> None:
        for artefact in folder.glob("encoder.onnx*"):
            shutil.copyfile(artefact, into / artefact.name)

    for way in ("_packed_export", "_plain_export"):
        monkeypatch.setattr(f"clickloop.retriever.export.{way}", copy)


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
    assert {"encoder.int8.onnx", "encoder.int8.onnx.data"} <= set(release.checksums)
    modes = {path.stat().st_mode for path in releases.folder(release.id).glob("encoder.*")}
    assert len(modes) == 1, "who may read one of them may read all"
    small = releases.encoder(release)
    alone = [small.query(text) for text in TEXTS]
    fresh = releases.encoder(release)
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
    served = releases.encoder(release)
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
    served = releases.encoder(release)
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
    def interrupted(_: object, into: Path) -> None:
        (into / "encoder.onnx").write_bytes(b"half an export")
        raise KeyboardInterrupt

    releases = Releases(database, tmp_path / "releases")
    with monkeypatch.context() as patch:
        patch.setattr("clickloop.retriever.export._packed_export", interrupted)
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
    assert releases.encoder(made).query("a").shape == (32,)
