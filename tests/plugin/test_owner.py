"""The owner of the index looks at the database five times a second: an idle look is one question, and misses nothing.
Whatever fails, the index holds what it says, and somebody goes on.
"""

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from qdrant_client import QdrantClient
from sqlalchemy import event

from clickloop.plugin.loop import ClickLoop
from clickloop.plugin.settings import Qdrant, Settings
from clickloop.retriever.edge import EdgeStore
from clickloop.retriever.errors import DatabaseFault, ModelError
from clickloop.retriever.index import Index
from clickloop.retriever.locks import Lock
from clickloop.retriever.owner import Owner, await_switch
from clickloop.retriever.pointer import set_build
from clickloop.retriever.qdrant import QdrantStore
from clickloop.retriever.schema import challenger
from clickloop.retriever.types import Build, Document
from clickloop.retriever.vectors import VectorLog

MOMENT_SECONDS = 0.2  # in which what does not wait is done
Until = Callable[[Callable[[], bool]], None]


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


@pytest.mark.parametrize("made", [False, True])
def test_an_index_that_is_made_anew_claims_nothing_whenever_that_is_interrupted(
    loop: ClickLoop, other: ClickLoop, monkeypatch: pytest.MonkeyPatch, made: bool
) -> None:
    """By a kill before the new one is there, or right after."""
    live = loop.releases.live()
    assert live is not None
    shutil.rmtree(loop.settings.data_dir / "builds" / live.id)
    create = EdgeStore.create

    def killed(store: EdgeStore, name: str, dimension: int) -> Index:
        if made:
            create(store, name, dimension).close()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(EdgeStore, "create", killed)
        owner = loop.make_owner()
        assert owner.acquire()
        with pytest.raises(KeyboardInterrupt):
            owner.open()
        owner.close()
    after = other.make_owner()
    assert after.acquire()
    after.open()
    _settle(after)
    opened = other.live.current()
    assert opened is not None
    assert opened.index.count() == other.documents.count() > 0
    after.close()


def test_a_search_that_takes_long_does_not_cost_the_index(loop: ClickLoop, owner: Owner, other: ClickLoop) -> None:
    """It is still open when the service ends, and somebody else wants it."""
    live, after = loop.releases.live(), other.make_owner()
    closing = threading.Thread(target=owner.close)
    with loop.live.lease():
        closing.start()
        closing.join(MOMENT_SECONDS)
        assert not after.acquire()
    closing.join()
    assert after.acquire()
    after.open()
    assert other.releases.live() == live, "with all that is in it"
    after.close()


def test_stored_vectors_that_cannot_be_compacted_keep_nothing_from_being_indexed(
    loop: ClickLoop, monkeypatch: pytest.MonkeyPatch, until: Until
) -> None:
    monkeypatch.setattr(VectorLog, "worn", lambda *_arguments: True)
    tried: list[VectorLog] = []

    def compact(log: VectorLog, _alive: object) -> None:
        tried.append(log)
        _full()

    monkeypatch.setattr(VectorLog, "compact", compact)
    with loop:
        revision = loop.documents.put([Document("new", "", "a new list")])
        until(lambda: _indexed(loop) == revision)
        assert "new" in {hit.id for hit in loop.search("a new list", k=100)}
    assert tried, "otherwise nothing failed here"


# The model


@pytest.fixture
def damaged(loop: ClickLoop, owner: Owner, retired: Callable[[ClickLoop], Build]) -> str:
    """The former release: the live one is a copy of it, and damaged. Nobody owns the index."""
    former = loop.releases.list()[0]
    build = retired(loop)
    loop.releases.request_switch(build.id, "rollback", "test")
    _settle(owner)
    owner.close()
    (loop.releases.folder(build.release_id) / "encoder.onnx").write_bytes(b"damaged")
    return former.id


def test_a_damaged_model_is_left_by_a_rollback(damaged: str, other: ClickLoop) -> None:
    number = other.releases.request_switch(other.releases.newest_build(damaged).id, "rollback", "test")
    assert await_switch(other.releases, number, other.make_owner).state == "done"
    live = other.releases.live()
    assert live is not None
    assert live.release_id == damaged
    with other:
        assert other.search("the red list").release == damaged


def test_a_service_whose_model_is_damaged_starts_with_the_one_that_is_wished_for(
    damaged: str, other: ClickLoop
) -> None:
    broken = other.releases.live()
    assert broken is not None
    other.releases.request_switch(broken.id, "promotion", "test")  # which cannot be granted
    other.releases.request_switch(other.releases.newest_build(damaged).id, "rollback", "test")
    with other:
        assert other.search("the red list").release == damaged
        assert other.releases.wanted() is None


def test_where_the_other_model_is_damaged_too_the_wish_is_refused(damaged: str, other: ClickLoop) -> None:
    (other.releases.folder(damaged) / "encoder.onnx").write_bytes(b"damaged")
    number = other.releases.request_switch(other.releases.newest_build(damaged).id, "rollback", "test")
    owner = other.make_owner()
    for _ in range(2):
        assert owner.acquire()
        with pytest.raises(ModelError, match="release-copy"):
            owner.open()
        owner.close()
    switch = other.releases.switch(number)
    assert switch.state == "refused"
    assert damaged in str(switch.error)


# The lock


def _lock(loop: ClickLoop, monkeypatch: pytest.MonkeyPatch) -> Lock:
    """That of the owner which this service will make; to release it is to lose it."""
    lock, make = loop._lock("owner"), loop._lock
    monkeypatch.setattr(loop, "_lock", lambda name: lock if name == "owner" else make(name))
    return lock


def test_an_owner_that_lost_its_lock_takes_it_again_where_nobody_else_can_open_the_index(
    loop: ClickLoop, other: ClickLoop, monkeypatch: pytest.MonkeyPatch, until: Until
) -> None:
    lock = _lock(loop, monkeypatch)
    with loop:
        lock.release()
        until(lock.held)
        revision = loop.documents.put([Document("new", "", "a new list")])
        until(lambda: _indexed(loop) == revision)
        assert not other.make_owner().acquire(), "and has it for itself"


@pytest.fixture
def replicas(data_dir: Path, settings_for: Callable[[Path], Settings]) -> Iterator[tuple[ClickLoop, ClickLoop]]:
    """Two processes that share an index."""
    server, settings = QdrantClient(":memory:"), settings_for(data_dir)
    settings = settings.model_copy(update={"qdrant": Qdrant(url="http://not-asked")})
    first, second = ClickLoop(settings), ClickLoop(settings)
    for loop in (first, second):
        loop._store = QdrantStore(server, "test-", {})
    yield first, second
    server.close()


def test_an_owner_that_lost_its_lock_follows_the_next_one_and_takes_over_when_that_is_gone(
    replicas: tuple[ClickLoop, ClickLoop], monkeypatch: pytest.MonkeyPatch, until: Until
) -> None:
    first, second = replicas
    lock = _lock(first, monkeypatch)
    with first:
        with monkeypatch.context() as patch:
            patch.setattr(lock, "acquire", lambda: False)
            lock.release()
            with second:
                until(lambda: _acts(second) and not _acts(first))
                revision = first.documents.put([Document("new", "", "a new list")])
                second.wait_for(revision)
                assert "new" in {hit.id for hit in first.search("a new list", k=100).hits}
        until(lambda: _acts(first))
        first.wait_for(first.documents.put([Document("newer", "", "a newer list")]))


def test_a_process_that_follows_says_how_far_the_owner_indexed(
    replicas: tuple[ClickLoop, ClickLoop], monkeypatch: pytest.MonkeyPatch, until: Until
) -> None:
    first, second = replicas
    assert _gauge(second) == -1, "nothing answers yet"
    with first:
        until(lambda: _acts(first))
        opened = first.documents.revision()
        first.wait_for(opened)
        with second:
            assert _gauge(second) == opened
            revision = second.documents.put([Document("new", "", "a new list")])
            second.wait_for(revision)
            assert not _acts(second)
            assert _gauge(second) == revision == _gauge(first)
            monkeypatch.setattr(second.releases, "build", _locked)
            assert _gauge(second) == opened, "what it knew last"


def _locked(_build_id: str) -> None:
    raise DatabaseFault("database is locked")


def _gauge(loop: ClickLoop) -> float | None:
    return loop._registry.get_sample_value("clickloop_indexed_revision")


def _acts(loop: ClickLoop) -> bool:
    follower: Any = loop._follower
    return bool(follower._owner.acts())


def _indexed(loop: ClickLoop) -> int:
    live = loop.live.current()
    return -1 if live is None else live.build.revision
