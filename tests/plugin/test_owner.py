"""The owner of the index looks at the database five times a second: an idle look is one question, and misses nothing."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import event

from clickloop.plugin.loop import ClickLoop
from clickloop.plugin.settings import Settings
from clickloop.retriever.owner import Owner
from clickloop.retriever.pointer import set_build
from clickloop.retriever.schema import challenger
from clickloop.retriever.types import Document


@pytest.fixture
def other(data_dir: Path, settings_for: Callable[[Path], Settings]) -> Iterator[ClickLoop]:
    """A process beside the owner, which writes documents and wishes."""
    loop = ClickLoop(settings_for(data_dir))
    yield loop
    loop.close()


@pytest.fixture
def loop(data_dir: Path, settings_for: Callable[[Path], Settings]) -> ClickLoop:
    return ClickLoop(settings_for(data_dir))


@pytest.fixture
def owner(loop: ClickLoop) -> Iterator[Owner]:
    owner = loop.make_owner()
    assert owner.acquire()
    owner.open()
    _settle(owner)
    yield owner
    owner.close()
    loop.close()


def _settle(owner: Owner) -> None:
    while owner.tick():
        pass


def test_nothing_but_the_news_is_asked_for_where_there_is_none(loop: ClickLoop, owner: Owner) -> None:
    begun: list[object] = []
    event.listen(loop.database.engine, "begin", begun.append)
    assert not owner.tick()
    assert begun == []
    loop.documents.put([Document("new", "", "a new list")])
    _settle(owner)
    assert begun


def test_what_others_write_is_indexed(loop: ClickLoop, owner: Owner, other: ClickLoop) -> None:
    revision = other.documents.put([Document("new", "", "a new list")])
    _settle(owner)
    assert other.documents.delete("new") == revision + 1
    _settle(owner)
    live = loop.live.current()
    assert live is not None
    assert live.build.revision == revision + 1


def test_a_wish_is_granted(loop: ClickLoop, owner: Owner, other: ClickLoop) -> None:
    former = other.releases.live()
    assert former is not None
    build = other.releases.add_build(former.release_id)
    loop.store.create(build.id, 32).close()
    number = other.releases.request_switch(build.id, "compaction", "test")
    _settle(owner)
    live = loop.live.current()
    assert other.releases.switch(number).state == "done"
    assert live is not None
    assert live.build.id == build.id
    assert former.id not in loop.store.names()


def test_a_challenger_comes_and_goes(loop: ClickLoop, owner: Owner, other: ClickLoop) -> None:
    champion = other.releases.live()
    assert champion is not None
    build = other.releases.add_build(champion.release_id)
    loop.store.create(build.id, 32).close()
    row = {"id": 1, "run_id": "run", "champion_id": champion.release_id, "release_id": champion.release_id}
    numbers = {"k": 1, "nights": 0, "judged_by": "run", "log_seq": 0, "queries": {}, "people": {}}
    with other.database.write() as connection:
        connection.execute(challenger.insert(), row | numbers | {"build_id": build.id})
    _settle(owner)
    opened = loop.live.challenger()
    assert opened is not None
    assert opened.build.revision == other.documents.revision()
    with other.database.write() as connection:
        connection.execute(challenger.delete())
        set_build(connection, build.id, state="rejected")
    _settle(owner)
    assert loop.live.challenger() is None
    assert build.id not in loop.store.names()


def test_what_failed_is_tried_again(loop: ClickLoop, owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    live = loop.live.current()
    assert live is not None
    with monkeypatch.context() as patch:
        patch.setattr(live.index, "upsert", _full)
        revision = loop.documents.put([Document("new", "", "a new list")])
        for _ in range(2):
            with pytest.raises(OSError, match="no room"):
                owner.tick()
    _settle(owner)
    assert live.build.revision == revision


def _full(*_arguments: object) -> None:
    raise OSError("no room")
