"""What can be set, called and run is written down: every setting, HTTP route and command."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from typer.main import get_command

from clickloop.plugin.app import create_app
from clickloop.plugin.cli import app as cli
from clickloop.plugin.loop import ClickLoop
from clickloop.plugin.settings import Settings

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def documentation() -> str:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    return "\n".join(page.read_text(encoding="utf-8") for page in pages)


def settings(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from settings(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name


def commands(command: Any, words: str = "clickloop") -> Iterator[str]:
    children = getattr(command, "commands", {})
    for name, child in children.items():
        yield from commands(child, f"{words} {name}")
    if not children:
        yield words


def test_every_setting_is_in_the_manual_of_operations() -> None:
    page = ROOT / "docs" / "operations.md"
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    names = list(settings(Settings))
    assert {"data_dir", "qdrant.url", "promotion.mode"} <= set(names)
    assert [name for name in names if f"`{name}`" not in text] == []


def test_every_setting_describes_itself() -> None:
    def undescribed(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
        for name, field in model.model_fields.items():
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                yield from undescribed(field.annotation, f"{prefix}{name}.")
            elif not field.description:
                yield prefix + name

    assert list(undescribed(Settings)) == []


def test_every_route_is_documented(documentation: str, tmp_path: Path) -> None:
    loop = ClickLoop(Settings(data_dir=tmp_path))
    paths = create_app(loop).openapi()["paths"]
    loop.close()
    calls = [f"{method.upper()} {path}" for path, methods in paths.items() for method in methods]
    assert "POST /v1/search" in calls
    assert [call for call in calls if not re.search(rf"{re.escape(call)}(?![\w/{{-])", documentation)] == []


def test_every_command_is_documented(documentation: str) -> None:
    names = list(commands(get_command(cli)))
    assert "clickloop keys create" in names
    assert [name for name in names if not re.search(rf"{name}(?![\w-])", documentation)] == []
