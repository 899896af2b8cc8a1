"""A build that is retired while searches use it."""

import threading
from typing import Any

from clickloop.retriever.search import OpenBuild

PATIENCE_SECONDS = 60


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
