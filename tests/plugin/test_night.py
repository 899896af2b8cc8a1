"""Whole nights on real parts: what a run decides, what survives a kill, and what people see meanwhile.

Documents name a topic by a digit, queries by a letter. The random model knows nothing of that; the log teaches it.
"""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import orjson
import pytest
from kill_at_step import kill
from school import FILLERS, RECIPE_VARIABLES, LessonSettings, documents, one_night, resume, teach, until
from sqlalchemy import func, select

from clickloop.plugin.children import spawn
from clickloop.plugin.loop import ClickLoop
from clickloop.retriever.errors import Conflict
from clickloop.retriever.ledger import entries
from clickloop.retriever.schema import events, looks, searches, switches
from clickloop.retriever.types import Document
from clickloop.trainer.nightly import Busy
from clickloop.trainer.recipe import Promotion

STEPS = (
    ("at", "reading the log"),
    ("at", "mining hard negatives"),
    ("amid", "fine-tuning"),
    ("at", "screening"),
    ("at", "embedding documents with the candidate"),
    ("at", "asking the guards"),
    ("at", "judging"),  # the steps of a promotion are in test_promotion.py
)


def test_a_night_learns_and_the_next_one_without_information_is_refused(
    folder: Path, lesson_settings: LessonSettings
) -> None:
    loop = ClickLoop(lesson_settings(folder))
    before = loop.releases.live()
    first = one_night(loop)
    assert first.startswith("promoted"), first
    after = loop.releases.live()
    assert before is not None
    assert after is not None
    assert after.release_id != before.release_id
    assert loop.releases.get(after.release_id).engine == "onnx", "the export of a tuned model serves"
    report = loop.reports.data(loop.runs.page()[0][0])
    assert report["metrics"]["delta"]["nDCG@10"] > 0.05
    assert report["lineage"]["data_sha256"]
    assert report["mining"]["training_pairs"] >= 100
    assert "<svg" in loop.reports.html(loop.runs.page()[0][0])
    with loop.database.read() as connection:
        said = {query.encode() for query in connection.scalars(select(searches.c.query))}
    said |= {document.text.encode() for document in documents()}
    files = [path for path in loop.releases.folder(after.release_id).rglob("*") if path.is_file()]
    quoted = [path for path in files if any(text in path.read_bytes() for text in said)]
    assert files
    assert not quoted, "a release quotes what people asked, or a document"
    teach(loop, sense=False, seed=1)
    second = one_night(loop)
    assert not second.startswith(("promoted", "failed")), second
    assert loop.releases.live() == after
    loop.close()


@pytest.mark.parametrize("sense", [True, False])
def test_where_every_search_has_a_filter_models_are_judged_within_them(
    sense: bool, prepared: Path, tmp_path: Path, lesson_settings: LessonSettings
) -> None:
    data = Path(shutil.copytree(prepared, tmp_path / "data"))
    with ClickLoop(lesson_settings(data)) as loop:
        loop.add_documents(documents(), wait=True)
    loop = ClickLoop(lesson_settings(data))
    teach(loop, sense=sense, filtered=True)
    run_id = loop.runs.queue("test").id
    (data / "runs" / run_id / "left by a kill").mkdir(parents=True)
    run = loop.run_night(run_id, lambda _step, _share: None)
    assert (run.outcome == "promoted") == sense, run.reasons
    report = loop.reports.data(run)
    if sense:
        assert report["metrics"]["delta"]["nDCG@10"] > 0.05
        assert all(len(query["within"]["topic"]) > 1 for query in report["evidence"]["better"])
        assert "within {" in loop.reports.html(run)
    assert not [path for path in (data / "runs").glob("*/*") if path.is_dir()]
    loop.close()


@pytest.mark.parametrize(("when", "step"), STEPS)
def test_a_night_killed_goes_on_where_it_was(
    when: str, step: str, folder: Path, lesson_settings: LessonSettings
) -> None:
    loop = ClickLoop(lesson_settings(folder))
    loop.runs.queue("test")
    loop.close()
    kill(loop.settings, "night", when, step)
    loop = ClickLoop(lesson_settings(folder))
    run = resume(loop)
    assert run.outcome == "promoted", run.reasons
    assert run.attempts == 2
    with loop.database.read() as connection:
        assert connection.scalar(select(func.count()).select_from(looks)) == 1, "a resumed run takes no second look"
        done = select(func.count()).select_from(switches).where(switches.c.reason == "promotion")
        assert connection.scalar(done) == 1
    live = loop.releases.live()
    assert live is not None
    assert {build.id for build in loop.releases.builds() if build.state != "retired"} == {live.id}
    assert set(loop.store.names()) == {build.id for build in loop.releases.builds()}, "no orphaned index"
    loop.close()


def test_a_night_of_the_command_killed_from_outside_goes_on(
    folder: Path, lesson_settings: LessonSettings, tiny_model: Path
) -> None:
    command = [sys.executable, "-m", "clickloop.plugin.cli", "train", "--data-dir", str(folder)]
    variables = os.environ | {"CLICKLOOP_MODEL": str(tiny_model)} | RECIPE_VARIABLES
    with subprocess.Popen(command, env=variables, stderr=subprocess.PIPE, text=True) as night:
        assert night.stderr is not None
        assert any(line.startswith("fine-tuning") for line in night.stderr), "the step never came"
        night.kill()
    loop = ClickLoop(lesson_settings(folder))
    run = resume(loop)
    assert (run.outcome, run.attempts) == ("promoted", 2), run.reasons
    loop.close()


def test_what_a_killed_night_had_decided_stands_though_hardly_a_query_judges_any_more(
    judged: Path, tmp_path: Path, lesson_settings: LessonSettings
) -> None:
    loop = ClickLoop(lesson_settings(Path(shutil.copytree(judged, tmp_path / "data"))))
    for document in documents()[6:]:  # all but those of the first topic
        loop.delete_document(document.id)
    run = resume(loop)
    assert run.outcome == "promoted", run.reasons
    (decision,) = [orjson.loads(entry.content) for entry in entries(loop.database) if entry.kind == "decision"]
    live = loop.releases.live()
    assert live is not None
    assert live.release_id == decision["candidate"]
    with loop.live.lease() as build:
        assert build.index.count() == loop.documents.count()
    loop.close()


def test_a_run_that_another_process_ended_meanwhile_is_left_alone(
    folder: Path, lesson_settings: LessonSettings
) -> None:
    loop = ClickLoop(lesson_settings(folder))
    run_id = loop.runs.queue("test").id
    loop.runs.finish(run_id, "skipped", ["3 training pairs"])
    ended = loop.runs.get(run_id)
    assert loop.run_night(run_id, lambda _step, _share: None) == ended
    loop.close()


def test_a_run_that_is_interrupted_again_and_again_fails_with_the_reason(
    folder: Path, lesson_settings: LessonSettings
) -> None:
    loop = ClickLoop(lesson_settings(folder))
    run = loop.runs.queue("test")
    loop.runs.update(run.id, state="running", attempts=3)
    again = loop.run_night(run.id, lambda _step, _share: None)
    assert again.outcome == "failed"
    assert "interrupted 3 times" in again.reasons[0]
    loop.close()


def test_only_one_night_at_a_time_whoever_starts_it(folder: Path, lesson_settings: LessonSettings) -> None:
    loop, other = ClickLoop(lesson_settings(folder)), ClickLoop(lesson_settings(folder))
    run = loop.runs.queue("test")
    with pytest.raises(Conflict, match=run.id):
        other.runs.queue("another")
    seen = []

    def show(_step: str, _share: float) -> None:
        if not seen:
            with pytest.raises(Busy):
                other.run_night(run.id, lambda _step, _share: None)
            seen.append(True)

    assert loop.run_night(run.id, show).outcome == "promoted"
    assert seen
    loop.close()
    other.close()


def test_a_night_that_lost_its_lock_leaves_the_run_to_whoever_has_it(
    folder: Path, lesson_settings: LessonSettings
) -> None:
    loop = ClickLoop(lesson_settings(folder))
    run, before, night = loop.runs.queue("test"), loop.releases.live(), loop.night()

    def lose(step: str, _share: float) -> None:
        if step == "building the new index":
            night._lock.release()  # as PostgreSQL does when a session ends

    with pytest.raises(Busy, match=run.id):
        night.run(run.id, lose)
    assert loop.runs.get(run.id).state == "running"
    assert loop.releases.live() == before
    again = loop.run_night(run.id, lambda _step, _share: None)
    assert (again.outcome, again.attempts) == ("promoted", 2), again.reasons
    loop.close()


def test_writes_while_a_night_builds_are_right_the_moment_it_is_live_and_searches_never_mix(  # noqa: PLR0915
    folder: Path, lesson_settings: LessonSettings
) -> None:
    """A writer and a searcher that never stop, through a promotion and a rollback."""
    loop = ClickLoop(lesson_settings(folder))
    loop.start(nights=False)
    loop.wait_until_ready()
    first = loop.releases.live()
    stop = threading.Event()
    written: dict[str, bool] = {}  # id → whether it exists, as acknowledged
    wrong: list[str] = []
    seen_releases: set[str] = set()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            id_ = f"new/{number % 40}"
            if number % 3:
                loop.add_documents([Document(id_, "", f"{number % 10} {FILLERS[number % 16]} new")])
            else:
                loop.delete_document(id_)
            written[id_] = bool(number % 3)
            time.sleep(0.02)

    def search() -> None:
        while not stop.is_set():
            build = loop.live.current()
            assert build is not None
            time.sleep(0.01)
            answer = loop.search("a k l", k=5, log=False)
            seen_releases.add(answer.release)
            with loop.live.lease() as leased:
                query = leased.encoder.query("a k l")
                stored = leased.index.vectors([n.key for n in leased.index.query(query, 3)])
                for neighbour in leased.index.query(query, 3):
                    vector = stored.get(neighbour.key)
                    if vector is not None and abs(float(vector @ query) - neighbour.score) > 1e-3:
                        wrong.append(f"{leased.build.id}: {neighbour}")
            if not {hit.id for hit in answer} <= known_ids:
                wrong.append("a hit that nobody stored")

    known_ids = {document.id for document in documents()} | {f"new/{n}" for n in range(40)}
    known_ids |= {stored.document.id for page in loop.documents.snapshot(10**9) for stored in page}
    threads = [threading.Thread(target=work) for work in (write, search)]
    for thread in threads:
        thread.start()
    try:
        run = loop.runs.queue("test")
        assert spawn(loop.settings, "nights", run.id).wait() == 0  # a child, as in the service
        outcome = str(loop.runs.get(run.id).outcome)
        second = loop.releases.live()
        assert outcome.startswith("promoted"), outcome
        assert second is not None
        assert first is not None
        back = loop.releases.request_switch(first.id, "rollback", "test")
        until(lambda: loop.releases.switch(back).state != "requested")
        assert loop.releases.switch(back).state == "done", loop.releases.switch(back)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not wrong, wrong[:3]
    assert seen_releases == {first.release_id, second.release_id}
    loop.wait_for(loop.documents.revision())
    with loop.live.lease() as build:
        assert build.index.count() == loop.documents.count()
    for id_, exists in written.items():
        found = {hit.id for hit in loop.search("0 k new", k=200, log=False)}
        assert (id_ in found) == exists
    loop.close()


def test_approval_switches_to_complete_data_and_a_rejection_leaves_the_present_model(
    folder: Path, lesson_settings: LessonSettings
) -> None:
    settings = lesson_settings(folder).model_copy(update={"promotion": Promotion(mode="approve")})
    loop = ClickLoop(settings)
    assert one_night(loop).startswith("awaiting_approval")
    (waiting,), _ = loop.runs.page(1)
    before = loop.releases.live()
    loop.start(nights=False)
    loop.wait_until_ready()
    loop.add_documents([Document("late", "", "0 k late")], wait=True)
    loop.runs.approve(waiting.id, "test")
    until(lambda: loop.runs.get(waiting.id).state == "finished")
    assert loop.runs.get(waiting.id).outcome == "promoted"
    after = loop.releases.live()
    assert after != before
    assert "late" in {hit.id for hit in loop.search("0 k late", k=100)}
    with pytest.raises(Conflict):
        loop.runs.reject(waiting.id, "test")
    loop.close()


def test_what_was_acknowledged_survives_kill_9_of_the_server(
    folder: Path, tiny_model: Path, lesson_settings: LessonSettings
) -> None:
    """Killed three times while documents and events are written."""
    key = "a-key-for-this-test"
    variables = os.environ | {
        "CLICKLOOP_MODEL": str(tiny_model),
        "CLICKLOOP_ADMIN_KEY": key,
        "CLICKLOOP_SCHEDULE__ENABLED": "false",
    }
    command = [sys.executable, "-m", "clickloop.plugin.cli", "serve", "--port", "0", "--data-dir", str(folder)]
    documents_kept: set[str] = set()
    events_kept: set[str] = set()
    for attempt in range(3):
        server = subprocess.Popen(command, env=variables, stderr=subprocess.PIPE, text=True)
        assert server.stderr is not None
        address = next(line for line in server.stderr if line.startswith("clickloop: http")).split()[1]
        drain = threading.Thread(target=server.stderr.read)
        drain.start()
        with httpx.Client(base_url=address, headers={"Authorization": f"Bearer {key}"}, timeout=60) as api:
            until(lambda api=api: api.get("/ready").status_code == 200)
            killer = threading.Timer(0.7 + 0.4 * attempt, lambda server=server: server.send_signal(signal.SIGKILL))
            killer.start()
            number = 0
            try:
                while True:
                    number += 1
                    name = f"{attempt}/{number}"
                    answer = api.post("/v1/search", json={"query": f"a k {number}", "k": 3}).json()
                    click = {"query_id": answer["query_id"], "action": "click", "event_id": name}
                    api.post("/v1/events", json={"events": [click | {"document_id": answer["hits"][0]["id"]}]})
                    events_kept.add(name)
                    api.post("/v1/documents", json={"documents": [{"id": name, "text": f"3 k {number}"}]})
                    documents_kept.add(name)
            except httpx.TransportError:
                server.wait()
                drain.join()
                server.stderr.close()
            assert number > 3
    loop = ClickLoop(lesson_settings(folder))
    loop.start(nights=False)
    loop.wait_until_ready()
    loop.wait_for(loop.documents.revision())
    found = {hit.id for hit in loop.search("3 k", k=1000)}
    assert documents_kept <= found
    with loop.database.read() as connection:
        rows = connection.execute(select(events.c.event_id, events.c.query_known)).all()
    assert events_kept <= {row.event_id for row in rows}
    assert all(row.query_known for row in rows), "a search is written before the events that name it"
    loop.close()
