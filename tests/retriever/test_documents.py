import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from threading import Barrier, Event
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clickloop.retriever.database import Database
from clickloop.retriever.documents import MAX_DEPTH, MAX_ID, Documents, changes
from clickloop.retriever.errors import InvalidInput, NotFound
from clickloop.retriever.types import Document, Payload, StoredDocument


@pytest.fixture
def documents(database: Database) -> Documents:
    return Documents(database)


@contextmanager
def fresh() -> Iterator[Database]:
    with tempfile.TemporaryDirectory() as folder:
        database = Database(f"sqlite:///{folder}/clickloop.db")
        try:
            yield database
        finally:
            database.close()


def named(*ids: str, text: str = "some text") -> list[Document]:
    return [Document(id_, text=text) for id_ in ids]


def tail(database: Database, after: int = 0, page: int = 100) -> list[StoredDocument]:
    """Everything written after a revision, read page by page as a catch-up does."""
    found: list[StoredDocument] = []
    while True:
        with database.read() as connection:
            rows = changes(connection, after, page)
        if not rows:
            return found
        found += rows
        after = rows[-1].revision


def snapshot(documents: Documents, revision: int, page: int = 1000) -> dict[str, StoredDocument]:
    return {stored.document.id: stored for rows in documents.snapshot(revision, page) for stored in rows}


def test_what_was_put_comes_back(documents: Documents) -> None:
    document = Document("a", "Title", "Text", {"year": 2026, "tags": ["x", "y"], "deep": {"price": 1.5, "none": None}})
    documents.put([document])
    assert documents.get("a") == document


def test_every_write_takes_the_next_revision(database: Database, documents: Documents) -> None:
    assert documents.put(named("a", "b", "c")) == 3
    assert documents.put(named("b")) == 4
    assert documents.delete("a") == 5
    assert documents.put(named("d", "e")) == 7
    assert documents.revision() == 7
    assert [(stored.document.id, stored.revision) for stored in tail(database)] == [
        ("c", 3),
        ("b", 4),
        ("a", 5),
        ("d", 6),
        ("e", 7),
    ]


def test_an_empty_batch_writes_nothing(documents: Documents) -> None:
    documents.put(named("a"))
    assert documents.put([]) == 1
    assert documents.revision() == 1


def test_replacing_a_document_keeps_its_key(database: Database, documents: Documents) -> None:
    documents.put(named("a", "b"))
    keys = {stored.document.id: stored.key for stored in tail(database)}
    documents.put([Document("a", "New title", "new text", {"new": True})])
    (replaced,) = tail(database, after=2)
    assert replaced.key == keys["a"]
    assert replaced.document == Document("a", "New title", "new text", {"new": True})


def test_a_deleted_document_that_comes_back_keeps_its_key(database: Database, documents: Documents) -> None:
    documents.put(named("a"))
    (first,) = tail(database)
    documents.delete("a")
    documents.put(named("a", text="again"))
    (last,) = tail(database)
    assert (last.key, last.revision, last.deleted, last.document.text) == (first.key, 3, False, "again")


def test_deleting_leaves_an_empty_tombstone(database: Database, documents: Documents) -> None:
    documents.put([Document("a", "Title", "text", {"year": 2026})])
    documents.delete("a")
    (tombstone,) = tail(database)
    assert tombstone == StoredDocument(tombstone.key, 2, True, Document("a"))
    assert documents.count() == 0
    assert documents.by_key([tombstone.key]) == {}
    with pytest.raises(NotFound, match="'a'"):
        documents.get("a")


def test_deleting_is_idempotent(database: Database, documents: Documents) -> None:
    documents.put(named("a", "b"))
    assert documents.delete("a") == 3
    assert documents.delete("a") == 3
    assert documents.delete("never there") == 3
    assert [stored.revision for stored in tail(database)] == [2, 3]


def test_a_key_is_not_used_again_after_its_tombstone_is_forgotten(database: Database, documents: Documents) -> None:
    documents.put(named("a", "b"))
    documents.delete("b")
    (_, tombstone) = tail(database)
    assert documents.forget_tombstones(2) == 0
    assert documents.forget_tombstones(3) == 1
    documents.put(named("b"))
    assert all(stored.key != tombstone.key for stored in tail(database))


@pytest.mark.parametrize(
    "id_", ["a/b/c", "/", "../a", "two words", " ", "Größe", "検索/例", "🙂", "x" * MAX_ID, "%2F", "'"]
)
def test_an_id_is_any_text(documents: Documents, id_: str) -> None:
    documents.put(named("other", id_))
    assert documents.get(id_).id == id_
    documents.delete(id_)
    assert documents.count() == 1


def test_ids_differ_by_case_and_by_unicode_form(documents: Documents) -> None:
    ids = ("a", "A", "é", "e\u0301")
    documents.put(named(*ids))
    assert [documents.get(id_).id for id_ in ids] == list(ids)


def nested(levels: int) -> Payload:
    value: Any = "the deepest"
    for _ in range(levels - 1):
        value = [value] if isinstance(value, dict) else {"in": value}
    return {"in": value}


UNUSABLE = [
    pytest.param(Document("bad", "", ""), "bad", id="neither title nor text"),
    pytest.param(Document("bad", " ", "\n\t"), "bad", id="only blanks"),
    pytest.param(Document("", text="x"), "id", id="empty id"),
    pytest.param(Document("x" * (MAX_ID + 1), text="x"), "id", id="id too long"),
    pytest.param(Document("a\x00b", text="x"), "id", id="NUL in the id"),
    pytest.param(Document("bad", "a\x00b"), "title", id="NUL in the title"),
    pytest.param(Document("bad", text="a\x00b"), "text", id="NUL in the text"),
    pytest.param(Document("bad", text="half of a pair: \ud83d"), "text", id="lone surrogate in the text"),
    pytest.param(Document("bad", text="x", payload={"size": 2**70}), "payload", id="integer beyond 64 bits"),
    pytest.param(Document("bad", text="x", payload={"size": float("nan")}), "payload", id="NaN in the payload"),
    pytest.param(Document("bad", text="x", payload={"thing": object()}), "payload", id="payload that is not JSON"),
    pytest.param(Document("bad", text="x", payload=nested(MAX_DEPTH + 1)), "payload.*levels", id="payload too deep"),
    pytest.param(Document("bad", text="x", payload=nested(5000)), "payload.*levels", id="payload deeper than a stack"),
]


@pytest.mark.parametrize(("document", "named_part"), UNUSABLE)
def test_an_unusable_document_is_refused_with_its_whole_batch(
    documents: Documents, document: Document, named_part: str
) -> None:
    with pytest.raises(InvalidInput, match=named_part) as refused:
        documents.put([*named("good"), document])
    assert refused.value.name.startswith("documents.1.")
    assert (documents.count(), documents.revision()) == (0, 0)


def test_a_payload_as_deep_as_allowed_comes_back(documents: Documents) -> None:
    document = Document("deep", text="x", payload=nested(MAX_DEPTH))
    documents.put([document])
    assert documents.get("deep") == document


def test_an_id_that_comes_twice_is_named_and_nothing_is_stored(documents: Documents) -> None:
    with pytest.raises(InvalidInput, match=r"^documents\.3\.id: 'twin'"):
        documents.put(named("a", "twin", "b", "twin"))
    assert (documents.count(), documents.revision()) == (0, 0)


@pytest.mark.parametrize("document", [Document("t", title="Only a title"), Document("x", text="Only a text")])
def test_a_title_or_a_text_is_enough(documents: Documents, document: Document) -> None:
    documents.put([document])
    assert documents.get(document.id) == document


def test_by_key_passes_over_keys_that_are_not_there(database: Database, documents: Documents) -> None:
    documents.put(named("a", "b"))
    keys = [stored.key for stored in tail(database)]
    found = documents.by_key([*keys, 10**6])
    assert {key: document.id for key, document in found.items()} == dict(zip(keys, ("a", "b"), strict=True))


@pytest.mark.parametrize("many", [False, True])
def test_by_key_sees_what_another_process_wrote(
    database: Database, documents: Documents, tmp_path: Path, many: bool
) -> None:
    documents.put([Document("changed", text="old"), Document("deleted", text="old"), Document("kept", text="old")])
    with database.read() as connection:
        keys = {stored.document.id: stored.key for stored in changes(connection, 0, 10)}
    assert len(documents.by_key(list(keys.values()))) == 3
    elsewhere = Database(f"sqlite:///{tmp_path / 'clickloop.db'}")
    others = Documents(elsewhere)
    others.put([Document("changed", text="new")])
    others.delete("deleted")
    if many:
        others.put([Document(f"more {number}", text="more") for number in range(1500)])
    others.put([Document("unknown here", text="new")])
    elsewhere.close()
    unknown = max(stored.key for stored in tail(database, page=2000))
    found = documents.by_key([*keys.values(), unknown])
    texts = {key: document.text for key, document in found.items()}
    assert texts == {keys["changed"]: "new", keys["kept"]: "old", unknown: "new"}


def test_changes_gives_each_document_once_at_its_newest_revision_in_order(
    database: Database, documents: Documents
) -> None:
    documents.put(named("a", "b", "c"))
    documents.put(named("a"))
    documents.delete("b")
    documents.put(named("a"))
    assert [(stored.document.id, stored.revision, stored.deleted) for stored in tail(database, page=1)] == [
        ("c", 3, False),
        ("b", 5, True),
        ("a", 6, False),
    ]
    assert [stored.document.id for stored in tail(database, after=5)] == ["a"]


def test_a_snapshot_leaves_out_what_was_written_later(documents: Documents) -> None:
    revision = documents.put(named("a", "b", "c", "d"))
    documents.put(named("b", "e"))
    documents.delete("c")
    assert set(snapshot(documents, revision)) == {"a", "d"}
    assert set(snapshot(documents, documents.revision(), page=2)) == {"a", "b", "d", "e"}


def test_a_document_written_while_a_snapshot_is_read_is_left_out(documents: Documents) -> None:
    revision = documents.put(named("a", "b", "c"))
    pages = documents.snapshot(revision, page=1)
    first = next(pages)
    documents.put(named("c"))
    assert [stored.document.id for rows in (first, *pages) for stored in rows] == ["a", "b"]


ids = st.sampled_from(["a", "b/c", "d e", "ü", "f"])
payloads = st.dictionaries(st.sampled_from(["x", "y"]), st.none() | st.integers(0, 9) | st.text("ab", max_size=2))
puts = st.dictionaries(ids, st.tuples(st.sampled_from(["one", "two"]), payloads), max_size=4)


@settings(max_examples=30)
@given(steps=st.lists(puts | ids, max_size=10), middle=st.integers(0, 10), page=st.integers(1, 7))
def test_replaying_the_changes_gives_the_documents_that_are_alive(
    steps: list[dict[str, tuple[str, Payload]] | str], middle: int, page: int
) -> None:
    with fresh() as database:
        documents = Documents(database)
        expected: dict[str, Document] = {}
        started: dict[str, Document] = {}
        revision = 0
        for position, step in enumerate(steps):
            if position == middle:
                revision = documents.revision()
                started = {id_: stored.document for id_, stored in snapshot(documents, revision, page).items()}
                assert started == expected
            if isinstance(step, str):
                documents.delete(step)
                expected.pop(step, None)
            else:
                batch = [Document(id_, text=text, payload=payload) for id_, (text, payload) in step.items()]
                documents.put(batch)
                expected |= {document.id: document for document in batch}
        for after, replayed in ((0, {}), (revision, started)):
            for stored in tail(database, after, page):
                if stored.deleted:
                    replayed.pop(stored.document.id, None)
                else:
                    replayed[stored.document.id] = stored.document
            assert replayed == expected
        assert documents.count() == len(expected)


def test_a_reader_that_tails_two_writers_misses_nothing(database: Database) -> None:
    writes, batch = 20, 3
    together = Barrier(3)
    written = Event()

    def write(writer: str) -> list[int]:
        documents = Documents(database)
        together.wait(60)
        return [documents.put(named(*(f"{writer}-{n}-{i}" for i in range(batch)))) for n in range(writes)]

    def read() -> list[int]:
        seen: list[int] = []
        together.wait(60)
        last_round = False
        while not last_round:
            last_round = written.is_set()
            seen += [stored.revision for stored in tail(database, after=seen[-1] if seen else 0, page=4)]
        return seen

    with ThreadPoolExecutor(3) as pool:
        reader = pool.submit(read)
        writers = [pool.submit(write, name) for name in ("one", "two")]
        try:
            lasts = [writer.result() for writer in writers]
        finally:
            written.set()
        seen = reader.result()
    assert seen == list(range(1, 2 * writes * batch + 1))
    assert all(earlier < later for each in lasts for earlier, later in pairwise(each))
    assert len({last for each in lasts for last in each}) == 2 * writes
