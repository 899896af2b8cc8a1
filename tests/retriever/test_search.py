"""A build that is retired while searches use it."""

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from clickloop.retriever import search as module
from clickloop.retriever.search import Live, OpenBuild

PATIENCE_SECONDS = 60
MOMENT_SECONDS = 0.2  # in which what does not wait is done


class Index:
    """Closes when it may."""

    def __init__(self) -> None:
        self.may, self.closed = threading.Event(), threading.Event()

    def close(self) -> None:
        assert self.may.wait(PATIENCE_SECONDS)
        self.closed.set()


def test_whoever_uses_a_retired_build_last_does_not_wait_until_its_index_is_closed() -> None:
    unused: Any = None
    index: Any = Index()
    build = OpenBuild(unused, unused, unused, index)
    with build.use():
        build.retire()
    assert not index.closed.is_set()
    index.may.set()
    assert index.closed.wait(PATIENCE_SECONDS)


def test_the_end_waits_for_searches_that_have_begun_and_for_their_index() -> None:
    """Otherwise who opens it next would find it open."""
    live, index, order = _live()
    closing = threading.Thread(target=lambda: (live.close(), order.append("the end")))
    with live.lease():
        closing.start()
        closing.join(MOMENT_SECONDS)
        order.append("the search")
    index.may.set()
    closing.join()
    assert order == ["the search", "the index", "the end"]


def test_the_end_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(module, "CLOSING_SECONDS", 0.01)
    live, index, _ = _live()
    with live.lease():
        live.close()
        assert "a search still uses build-1" in caplog.text
    index.may.set()


def _live() -> tuple[Live, Any, list[str]]:
    order: list[str] = []
    unused: Any = None
    index: Any = Index()
    index.closed = SimpleNamespace(set=lambda: order.append("the index"))
    build: Any = SimpleNamespace(id="build-1")
    live = Live()
    live.install(OpenBuild(build, unused, unused, index))
    return live, index, order
