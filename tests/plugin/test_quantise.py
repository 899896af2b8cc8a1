"""`clickloop quantise`: queries with a byte for each weight, where what is found stays the same."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clickloop.plugin.loop import ClickLoop
from clickloop.plugin.settings import Settings
from clickloop.retriever.encoder import load_model
from clickloop.retriever.errors import Conflict
from clickloop.retriever.ledger import verify
from clickloop.retriever.pointer import add_switch, finish_switch
from clickloop.retriever.types import Document
from clickloop.trainer import quantise as quantising

Here = Callable[..., tuple[int, str, str]]
SettingsFor = Callable[[Path], Settings]
MANY = [Document(f"n{number}", f"word{number} of {number % 7}", f"text {number * 37} for it") for number in range(60)]


@pytest.fixture
def larger(data_dir: Path, settings_for: SettingsFor) -> Path:
    """With as many documents as a guard needs."""
    with ClickLoop(settings_for(data_dir)) as loop:
        loop.add_documents(MANY, wait=True)
    return data_dir


def test_where_too_little_can_be_asked_nothing_changes(data_dir: Path, settings_for: SettingsFor, here: Here) -> None:
    before = sorted(path.name for path in (data_dir / "releases").iterdir())
    status, said, _ = here("quantise")
    assert status == 3, said
    assert "says nothing" in said
    assert "fp32 as before" in said
    assert sorted(path.name for path in (data_dir / "releases").iterdir()) == before
    with ClickLoop(settings_for(data_dir)) as loop:
        assert loop.search("red list")[0].id.startswith("red")


def test_a_loss_beyond_the_tolerance_keeps_fp32(larger: Path, settings_for: SettingsFor, here: Here) -> None:  # noqa: ARG001
    status, said, _ = here("quantise", "--tolerance", "0")
    assert status == 3, said
    assert "guard self-retrieval is broken" in said
    assert "fp32 as before" in said


def test_harmless_queries_go_live_documents_stay_and_a_rollback_undoes_it(
    larger: Path, settings_for: SettingsFor, here: Here
) -> None:
    status, said, errors = here("quantise", "--tolerance", "1")
    assert status == 0, said + errors
    assert "of the 10 best documents" in said
    with ClickLoop(settings_for(larger)) as loop:
        live = loop.live.current()
        assert live is not None
        release = live.release
        assert release.parent is not None
        whole = loop.releases.get(release.parent)
        assert (release.engine, whole.engine) == ("onnx-int8", "onnx")
        first = loop.releases.encoder(whole)
        query, other = live.encoder.query("word3 of 3"), first.query("word3 of 3")
        assert not np.array_equal(query, other)
        assert float(query @ other) > 0.9
        assert np.array_equal(live.encoder.documents(MANY[:5]), first.documents(MANY[:5])), "documents stay in fp32"
        loop.add_documents([Document("new", "a new one", "which comes later")], wait=True)
        assert loop.search("a new one which comes later", 5).release == release.id
        with pytest.raises(Conflict, match="quantised already"):
            loop.quantiser().run(1.0, lambda _step, _share: None)
        assert verify(loop.database) == []
    assert here("rollback")[0] == 0
    with ClickLoop(settings_for(larger)) as loop:
        answer = loop.search("a new one which comes later", 80)
        assert answer.release == whole.id
        assert "new" in [hit.id for hit in answer], "what was written meanwhile is there"


def test_what_went_live_meanwhile_stays(
    larger: Path, settings_for: SettingsFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = ClickLoop(settings_for(larger))
    check = quantising.check_index

    def meanwhile(*arguments: Any) -> dict[str, float]:
        model = load_model(str(loop.releases.folder(loop.releases.list()[-1].id) / "model"))
        other = loop.releases.add_build(loop.releases.make(model, parent=None, lineage={}).id)
        loop.store.create(other.id, 32).close()
        with loop.database.write() as connection:
            finish_switch(connection, add_switch(connection, other.id, "rollback", "test", None))
        return check(*arguments)

    monkeypatch.setattr(quantising, "check_index", meanwhile)
    with pytest.raises(Conflict, match="superseded"):
        loop.quantiser().run(1.0, lambda _step, _share: None)
    assert loop.releases.wanted() is None
    assert {release.engine for release in loop.releases.list()} == {"onnx"}, "nothing of the attempt is left"
    assert set(loop.store.names()) == {build.id for build in loop.releases.builds()}
    loop.close()


def test_a_switch_that_is_asked_for_comes_first(larger: Path, settings_for: SettingsFor, here: Here) -> None:
    loop = ClickLoop(settings_for(larger))
    live = loop.releases.live()
    assert live is not None
    loop.releases.request_switch(live.id, "promotion", "test")
    status, _, errors = here("quantise")
    assert status == 1
    assert "another switch is asked for" in errors
    loop.close()


def test_without_documents_nothing_can_be_compared(data_dir: Path, settings_for: SettingsFor, here: Here) -> None:
    with ClickLoop(settings_for(data_dir)) as loop:
        for page in loop.documents.snapshot(loop.documents.revision()):
            for stored in page:
                loop.delete_document(stored.document.id)
        loop.wait_for(loop.documents.revision())
    before = sorted((data_dir / "releases").iterdir())
    status, _, errors = here("quantise")
    assert status == 1
    assert "no documents" in errors
    assert sorted((data_dir / "releases").iterdir()) == before


def test_while_a_night_is_active_it_waits_for_nobody(larger: Path, settings_for: SettingsFor, here: Here) -> None:
    loop = ClickLoop(settings_for(larger))
    lock = loop._lock("night")
    assert lock.acquire()
    status, _, errors = here("quantise")
    assert status == 1
    assert "is active" in errors
    lock.release()
    loop.close()


def test_a_release_that_torch_serves_cannot_be_quantised(data_dir: Path, settings_for: SettingsFor, here: Here) -> None:
    (path,) = (data_dir / "releases").glob("*/release.json")
    path.write_text(path.read_text().replace('"engine": "onnx"', '"engine": "torch"'))
    status, _, errors = here("quantise")
    assert status == 1
    assert "served by torch" in errors
    assert ClickLoop(settings_for(data_dir)).releases.list()[0].engine == "torch"
