"""Whose weights a night trains further."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from clickloop.retriever.database import Database
from clickloop.retriever.errors import ModelError
from clickloop.retriever.releases import Releases, write_whole
from clickloop.retriever.types import Release
from clickloop.trainer import teach
from clickloop.trainer.recipe import FineTuning, Recipe
from clickloop.trainer.teach import training_start

FROM_FIRST = Recipe(training=FineTuning(start="first"))


@pytest.fixture
def releases(database: Database, tmp_path: Path) -> Releases:
    return Releases(database, tmp_path / "releases")


def made(releases: Releases, name: str, parent: str | None, at: float) -> Release:
    release = Release(name, parent, 8, "{text}", "", "", 32, "onnx", {}, {}, at)
    releases.folder(name).mkdir(parents=True)
    write_whole(releases.folder(name) / "release.json", orjson.dumps(dataclasses.asdict(release)))
    releases.record(release)
    return release


@pytest.mark.parametrize("at", [1.0, 9.0])
def test_it_is_the_champion_or_the_first_release_which_stays_for_that(releases: Releases, at: float) -> None:
    """Also where the clock was set back after the first one was made."""
    first, champion = made(releases, "first", None, at), made(releases, "third", "first", 3.0)
    made(releases, "second", "first", 2.0)
    assert training_start(releases, champion, Recipe()) == champion
    for name in ("first", "second"):
        releases.drop_unused(name)
    assert training_start(releases, champion, FROM_FIRST) == first
    assert releases.whole("first")
    assert not releases.whole("second")


@pytest.mark.parametrize(("engine", "quantised"), [("onnx", False), ("onnx-int8", True), ("torch", False)])
def test_what_a_champion_with_quantised_queries_teaches_has_them_too(
    releases: Releases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str, quantised: bool
) -> None:
    first = made(releases, "first", None, 1.0)
    champion = dataclasses.replace(first, engine=engine)
    asked: list[bool] = []

    def make(_model: object, **options: Any) -> Release:
        asked.append(options["quantised"])
        return dataclasses.replace(champion, id=options["release_id"], parent=options["parent"])

    monkeypatch.setattr(releases, "make", make)
    monkeypatch.setattr(teach, "finetune", lambda *_, **__: (None, []))
    monkeypatch.setattr(teach, "mine_triplets", lambda *_: ([], []))
    monkeypatch.setattr(teach, "mixed", lambda *_: None)
    (tmp_path / "runs" / "run-1").mkdir(parents=True)
    teacher = teach.Teacher(releases, tmp_path / "runs", Recipe(), lambda *_: None)
    tonight: Any = SimpleNamespace(
        run=SimpleNamespace(id="run-1", log_seq=1, event_seq=1),
        steps=SimpleNamespace(begin=lambda _step: None, progress=lambda _share: None),
        champion=SimpleNamespace(release=champion),
        lessons=SimpleNamespace(training=[]),
        corpus=None,
    )
    trained = teacher.teach(tonight)
    teacher.draw_back(tonight, trained, 0.5)
    assert asked == [quantised, quantised]


def test_a_first_release_that_was_lost_is_told_with_the_remedy(releases: Releases) -> None:
    champion = made(releases, "second", "first", 2.0)
    with pytest.raises(ModelError, match=r'set training.start = "champion"'):
        training_start(releases, champion, FROM_FIRST)
