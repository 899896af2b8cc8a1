"""Where a service answers: short searches that come alone in the event loop, all others in threads."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from clickloop.plugin import ClickLoop, Settings
from clickloop.plugin.app import create_app
from clickloop.plugin.routes import FEW, SHORT

Serving = Callable[..., AbstractContextManager[str]]
SettingsFor = Callable[[Path], Settings]


class Served:
    """A service, and in which threads it searched; `hold` keeps its searches waiting."""

    def __init__(self, loop: ClickLoop, url: str, patch: pytest.MonkeyPatch) -> None:
        self.threads: list[str] = []
        self.hold = threading.Event()
        self.hold.set()
        self._url, self._headers = url, {"Authorization": f"Bearer {loop.keys.create('search')[1]}"}
        search = loop.searcher.search

        def watched(*arguments: Any) -> Any:
            self.threads.append(threading.current_thread().name)
            self.hold.wait(20)
            return search(*arguments)

        patch.setattr(loop.searcher, "search", watched)

    def ask(self, path: str = "/v1/search", **body: Any) -> bool:
        """Whether it was answered in a thread for searches."""
        body = {"query": "red list", **body}
        answer = httpx.post(f"{self._url}{path}", json=body, headers=self._headers, timeout=30)
        assert answer.status_code == 200, answer.text
        return self.threads[-1].startswith("search_")


@pytest.fixture
def served(
    data_dir: Path, settings_for: SettingsFor, serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Served]:
    monkeypatch.setattr("clickloop.plugin.routes.QUICK", 60.0)  # however busy the machine is
    loop = ClickLoop(settings_for(data_dir))
    with serving(create_app(loop)) as url:
        loop.wait_until_ready()
        yield Served(loop, url, monkeypatch)


def test_a_short_search_that_comes_alone_wakes_no_thread(served: Served) -> None:
    assert not served.ask()
    assert not served.ask(k=FEW)


@pytest.mark.parametrize("body", [{"query": "a" * (SHORT + 1)}, {"k": FEW + 1}, {"filter": {"colour": "red"}}])
def test_what_may_take_longer_does_not_hold_up_the_event_loop(served: Served, body: dict[str, Any]) -> None:
    assert served.ask(**body)


def test_where_searches_are_slow_none_holds_up_the_event_loop(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clickloop.plugin.routes.QUICK", 0.0)
    assert served.ask()


def test_while_others_are_under_way_a_search_does_not_hold_up_the_event_loop(served: Served) -> None:
    served.hold.clear()
    with ThreadPoolExecutor(2) as clients:
        first = clients.submit(served.ask, filter={"colour": "red"})
        while not served.threads:
            pass
        second = clients.submit(served.ask)
        while len(served.threads) < 2:
            pass
        served.hold.set()
        assert first.result()
        assert second.result()
    assert all(name.startswith("search_") for name in served.threads)
    assert not served.ask(), "and afterwards it is alone again"


def test_in_a_hosts_app_no_search_holds_up_the_event_loop(
    data_dir: Path, settings_for: SettingsFor, serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = ClickLoop(settings_for(data_dir))
    app = FastAPI()
    app.include_router(loop.router(), prefix="/search")
    with serving(app) as url:
        loop.wait_until_ready()
        assert Served(loop, url, monkeypatch).ask("/search/v1/search")
