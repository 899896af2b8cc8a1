"""What the demo does to a folder and to the settings that it finds; `make demo` lives all of it."""

from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from clickloop.plugin.demo import _environment, _reports
from clickloop.plugin.settings import Settings, read_settings

Here = Callable[..., tuple[int, str, str]]


def test_its_nights_wait_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLICKLOOP_PROMOTION__MODE", "approve")
    monkeypatch.setenv("CLICKLOOP_TRAINING__EPOCHS", "5")
    for name, value in _environment("a preset key").items():
        monkeypatch.setenv(name, value)
    settings = read_settings()
    assert settings.promotion.mode == "auto"
    assert settings.training.epochs == 5
    assert (settings.training.soup, settings.training.max_tokens) == (1, 48)


def test_it_trains_as_often_as_somebody_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLICKLOOP_TRAINING__SOUP", "2")
    assert _environment("a preset key")["CLICKLOOP_TRAINING__SOUP"] == "2"


@pytest.mark.parametrize("inside", ["", "demo"])
def test_a_data_folder_that_is_a_file_is_left_alone(here: Here, tmp_path: Path, inside: str) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    status, _, errors = here("demo", "--data-dir", str(tmp_path / "thesis.txt" / inside))
    assert status == 1
    assert errors.startswith("clickloop: --data-dir: ")
    assert "thesis.txt" in errors
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_a_folder_is_named_as_it_is(
    tmp_path: Path, settings_for: Callable[[Path], Settings], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "a[/b]"
    _reports(Console(), settings_for(folder))
    assert f"--data-dir {folder}\n" in capsys.readouterr().out
