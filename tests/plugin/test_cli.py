import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import httpx
import pytest
from school import write_beir
from typer.main import get_command
from typer.testing import CliRunner

from clickloop.plugin import cli
from clickloop.plugin.loop import ClickLoop
from clickloop.plugin.settings import Settings
from clickloop.retriever.locks import open_lock
from clickloop.retriever.types import Build, Event, Who
from clickloop.trainer.runs import Runs

Run = Callable[..., CompletedProcess[str]]
Here = Callable[..., tuple[int, str, str]]
Until = Callable[[Callable[[], bool]], None]
SLOW = ("torch", "fastapi", "sqlalchemy", "numpy", "qdrant_client")


def commands() -> dict[str, list[str]]:
    """The words of every command."""
    found: dict[str, list[str]] = {}

    def walk(command: Any, words: list[str]) -> None:
        found[" ".join(words)] = words
        for name, child in getattr(command, "commands", {}).items():
            walk(child, [*words, name])

    walk(get_command(cli.app), [])
    return found


def failed(ended: tuple[int, str, str]) -> str:
    """The one line in which a command says why it failed."""
    status, output, errors = ended
    assert status == 1, ended
    assert output == ""
    (line,) = errors.splitlines()
    assert line.startswith("clickloop: ")
    return line


@contextmanager
def served(environment: dict[str, str], folder: Path, until: Until) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """The service in a process of its own, ready."""
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    arguments = [sys.executable, "-m", "clickloop.plugin.cli", "serve", "--port", str(port)]
    with subprocess.Popen(arguments, env=environment, cwd=folder, stderr=subprocess.PIPE, text=True) as process:

        def ready() -> bool:
            assert process.poll() is None, process.communicate()
            try:
                return httpx.get(f"{url}/ready").status_code == 200
            except httpx.TransportError:
                return False

        try:
            until(ready)
            yield url, process
        finally:
            process.kill()


@pytest.mark.parametrize("words", commands().values(), ids=commands())
def test_every_command_explains_itself(words: list[str]) -> None:
    shown = CliRunner().invoke(cli.app, [*words, "--help"])
    assert shown.exit_code == 0
    assert "Usage:" in shown.output
    assert len(shown.output.split()) > 10


def test_help_loads_none_of_the_libraries_that_take_long() -> None:
    code = (
        "import sys; sys.argv = ['clickloop', '--help']\n"
        "from clickloop.plugin.cli import main\n"
        f"try: main()\nfinally: print([name for name in {SLOW} if name in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "ingest" in ended.stdout
    assert ended.stdout.splitlines()[-1] == "[]"


def test_keys_are_made_listed_and_revoked(here: Here, data_dir: Path, settings_for: Callable[[Path], Settings]) -> None:
    status, secret, said = here("keys", "create", "--role", "write")
    assert status == 0
    key_id = said.removeprefix("id: ").strip()
    keys = ClickLoop(settings_for(data_dir)).keys
    assert keys.role(secret.strip()) == "write"
    status, listed, _ = here("keys", "list")
    assert f"{key_id}  write   valid" in listed
    assert secret.strip() not in listed
    assert here("keys", "revoke", key_id)[0] == 0
    assert keys.role(secret.strip()) is None
    assert f"{key_id}  write   revoked" in here("keys", "list")[1]
    assert "nobody" in failed(here("keys", "revoke", "nobody"))
    assert "root" in failed(here("keys", "create", "--role", "root"))


@pytest.mark.parametrize(
    "words",
    [
        ["runs"],
        ["releases"],
        ["report", "run-x"],
        ["approve", "run-x"],
        ["reject", "run-x"],
        ["rollback"],
        ["quantise"],
        ["evaluate", "beir"],
        ["audit", "verify"],
        ["audit", "list"],
        ["audit", "live"],
        ["keys", "list"],
        ["keys", "revoke", "key-x"],
    ],
    ids=" ".join,
)
def test_a_folder_without_a_service_is_refused_and_not_made(here: Here, tmp_path: Path, words: list[str]) -> None:
    mistyped = tmp_path / "clikloop-data"
    line = failed(here(*words, "--data-dir", str(mistyped)))
    assert f"data_dir = '{mistyped}'" in line
    assert "clickloop ingest" in line
    assert not mistyped.exists()


def test_where_the_database_is_elsewhere_the_folder_may_be_new(
    here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLICKLOOP_DATABASE_URL", f"sqlite:///{tmp_path / 'elsewhere.db'}")
    assert here("runs")[:2] == (0, "no run yet; `clickloop train` starts one\n")


@pytest.mark.parametrize("words", [["keys", "create", "--role", "write"], ["runs"], ["simulate", "beir"]], ids=" ".join)
def test_a_folder_without_a_name_is_refused(
    here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    status, _, errors = here(*words, "--data-dir", "")
    assert status == 2
    assert "--data-dir" in errors
    assert "name a folder" in errors
    assert list(tmp_path.iterdir()) == []


def test_on_an_empty_folder_lists_say_what_to_do(
    here: Here, tmp_path: Path, settings_for: Callable[[Path], Settings]
) -> None:
    ClickLoop(settings_for(tmp_path / "data")).close()
    for words in (["runs"], ["releases"], ["keys", "list"]):
        status, output, errors = here(*words)
        assert status == 0
        assert "clickloop " in output + errors, f"{words}: it names no command that would help"
    assert "run-of-nobody" in failed(here("report", "run-of-nobody"))


@pytest.mark.parametrize(
    "words",
    [["rollback"], ["rollback", "release-x"], ["approve", "run-x"], ["reject", "run-x"], ["report", "run-x"]],
    ids=" ".join,
)
def test_what_does_not_exist_is_said_in_one_line(here: Here, data_dir: Path, words: list[str]) -> None:
    assert data_dir.exists()
    assert "does not exist" in failed(here(*words))


def test_without_a_service_a_command_moves_the_pointer_itself(
    here: Here, data_dir: Path, settings_for: Callable[[Path], Settings], retired: Callable[[ClickLoop], Build]
) -> None:
    loop = ClickLoop(settings_for(data_dir))
    build = retired(loop)
    loop.close()
    status, output, errors = here("rollback", build.release_id)
    assert (status, output) == (0, f"live: {build.id}\n"), errors
    assert f"{build.release_id} is live already" in failed(here("rollback", build.release_id))


def test_a_night_says_by_its_exit_status_what_became_of_it(
    here: Here, run: Run, data_dir: Path, tmp_path: Path, settings_for: Callable[[Path], Settings]
) -> None:
    ended = run("train", "--json")
    assert ended.returncode == 3, ended.stderr
    night = json.loads(ended.stdout)
    assert night["decision"]["outcome"] == "skipped"
    assert night["id"] in here("runs")[1]
    status, output, _ = here("report", night["id"])
    assert status == 0
    assert night["decision"]["reasons"][0] in output
    assert here("report", night["id"], "--html", str(tmp_path / "report.html"))[0] == 0
    assert night["id"] in (tmp_path / "report.html").read_text()
    loop = ClickLoop(settings_for(data_dir))
    lock = open_lock(loop.database, data_dir / "locks", "night")
    assert lock.acquire()
    status, _, errors = here("train")
    lock.release()
    assert status == 4
    assert "active" in errors


def test_a_night_that_another_process_began_just_before_is_active(
    here: Here, data_dir: Path, settings_for: Callable[[Path], Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = ClickLoop(settings_for(data_dir)).runs.queue("test")
    monkeypatch.setattr(Runs, "unfinished", lambda _self: None)  # as it was a moment before
    status, _, errors = here("train")
    assert status == 4
    assert f"run {other.id} is active" in errors


def test_a_night_that_fails_for_a_reason_of_ours_logs_it_without_a_trace(
    here: Here, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert data_dir.exists()
    (tmp_path / "bad.csv").write_text("no,such,columns\n")
    monkeypatch.setenv("CLICKLOOP_GOLDEN__JUDGMENTS", str(tmp_path / "bad.csv"))
    assert here("train")[0] == 1
    (record,) = [record for record in caplog.records if record.name == "clickloop.trainer.nightly"]
    assert "bad.csv" in record.getMessage()
    assert not record.exc_info


def test_more_runs_than_a_database_counts_are_refused(here: Here) -> None:
    status, _, errors = here("runs", "--limit", "9223372036854775807")
    assert status == 2
    assert "--limit" in errors


def test_an_interruption_says_what_it_leaves(environment: dict[str, str], data_dir: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "clickloop.plugin.cli", "ingest", "-"]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, cwd=tmp_path, **pipes) as process:
        process.stdin.writelines(f'{{"_id": "{number}", "text": "list"}}\n' for number in range(500))
        process.stdin.flush()
        assert "storing" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        errors = process.stderr.read()
    assert process.returncode == 130
    assert errors.splitlines() == ["clickloop: interrupted; what was acknowledged is kept"]
    with closing(sqlite3.connect(data_dir / "clickloop.db")) as connection:
        assert connection.execute("SELECT count(*) FROM documents WHERE key > 12").fetchone() == (500,)


@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["at the end", "in the middle"])
@pytest.mark.parametrize(("words", "status"), [(["keys", "list"], 0), (["keys", "revoke", "nobody"], 1)])
def test_a_reader_who_left_is_no_failure(
    environment: dict[str, str], data_dir: Path, tmp_path: Path, unbuffered: str, words: list[str], status: int
) -> None:
    assert data_dir.exists()
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "clickloop.plugin.cli", *words]
    variables = environment | {"PYTHONUNBUFFERED": unbuffered}
    ended = subprocess.run(
        command, env=variables, cwd=tmp_path, stdout=writer, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writer)
    assert ended.returncode == status, ended.stderr
    assert len(ended.stderr.splitlines()) == status, ended.stderr


@pytest.mark.parametrize("words", [["demo"], ["bench", "events"], ["simulate", "beir"]], ids=" ".join)
@pytest.mark.parametrize("name", ["CLICKLOOP_DATABASE_URL", "CLICKLOOP_QDRANT__URL"])
def test_what_fills_a_service_of_its_own_refuses_those_of_others(
    here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], name: str
) -> None:
    write_beir(tmp_path / "beir")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(name, "postgresql+psycopg://me:topsecret@db.example/clickloop")
    status, _, errors = here(*words)
    assert status == 1
    assert name.removeprefix("CLICKLOOP_").lower().replace("__", ".") in errors
    assert "topsecret" not in errors
    assert sorted(path.name for path in tmp_path.iterdir()) == ["beir"], "nothing was made"


def test_a_report_that_cannot_be_written_is_named(
    here: Here, data_dir: Path, tmp_path: Path, settings_for: Callable[[Path], Settings]
) -> None:
    run_id = ClickLoop(settings_for(data_dir)).runs.queue("test").id
    nowhere = tmp_path / "nowhere" / "report.html"
    assert str(nowhere) in failed(here("report", run_id, "--html", str(nowhere)))


def test_a_missing_model_folder_is_named(run: Run, tmp_path: Path) -> None:
    missing = tmp_path / "no model here"
    ended = run("serve", "--port", "0", CLICKLOOP_MODEL=str(missing), CLICKLOOP_ADMIN_KEY="a preset key")
    line = failed((ended.returncode, ended.stdout, ended.stderr))
    assert str(missing) in line


def test_a_port_that_is_taken_is_named_before_anything_is_made(run: Run, tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        ended = run("serve", "--port", str(other.getsockname()[1]))
        line = failed((ended.returncode, ended.stdout, ended.stderr))
        assert f"127.0.0.1:{other.getsockname()[1]}" in line
    assert not (tmp_path / "data" / "releases").exists()


def test_a_folder_of_a_newer_version_is_left_as_it_is(here: Here, data_dir: Path) -> None:
    with closing(sqlite3.connect(data_dir / "clickloop.db")) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.commit()
        before = list(connection.iterdump())
    line = failed(here("runs"))
    assert "newer version" in line
    assert str(data_dir / "clickloop.db") in line
    with closing(sqlite3.connect(data_dir / "clickloop.db")) as connection:
        assert list(connection.iterdump()) == before


@pytest.mark.parametrize("words", [["runs"], ["keys", "create", "--role", "search"]], ids=" ".join)
def test_a_data_folder_that_is_a_file_is_named(here: Here, tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "data").write_text("mine")
    assert str(tmp_path / "data") in failed(here(*words))
    assert (tmp_path / "data").read_text() == "mine"


def test_a_database_that_is_none_is_named(here: Here, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "clickloop.db").write_bytes(b"these are other people's data" * 100)
    assert str(tmp_path / "data" / "clickloop.db") in failed(here("runs"))


def test_a_wrong_setting_is_named(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLICKLOOP_DURABILITY", "often")
    assert "durability = 'often'" in failed(here("runs"))


def test_a_second_service_on_a_folder_is_refused_and_the_first_goes_on(
    run: Run, environment: dict[str, str], data_dir: Path, tmp_path: Path, until: Until
) -> None:
    preset = {
        "CLICKLOOP_ADMIN_KEY": "the preset key of the first",
        "CLICKLOOP_SCHEDULE__ENABLED": "true",
        "CLICKLOOP_SCHEDULE__CRON": "0 0 29 2 *",
    }
    headers = {"Authorization": f"Bearer {preset['CLICKLOOP_ADMIN_KEY']}"}
    with served(environment | preset, tmp_path, until) as (url, first):
        assert httpx.get(f"{url}/v1/releases", headers=headers).status_code == 200
        second = run("serve", "--port", "0")
        assert second.returncode == 1
        assert "Traceback" not in second.stderr
        line = second.stderr.splitlines()[-1]
        assert str(data_dir) in line
        assert f"process {first.pid}" in line
        assert "Stop the other one" in line
        answer = httpx.get(f"{url}/v1/releases", headers=headers)
        first.send_signal(signal.SIGINT)
        _, errors = first.communicate(timeout=60)
    assert answer.status_code == 200, "the refused start took the key of the running service away"
    assert "Traceback" not in errors


def test_what_was_acknowledged_survives_the_death_of_the_service(
    environment: dict[str, str],
    data_dir: Path,
    tmp_path: Path,
    until: Until,
    settings_for: Callable[[Path], Settings],
) -> None:
    document = {"id": "kept", "text": "acknowledged before the end"}
    event = {"query_id": "q", "action": "click", "document_id": "kept", "event_id": "e"}
    preset = {"CLICKLOOP_ADMIN_KEY": "a preset admin key"}
    with served(environment | preset, tmp_path, until) as (url, process):
        with httpx.Client(base_url=url, headers={"Authorization": "Bearer a preset admin key"}) as client:
            assert client.post("/v1/documents", json={"documents": [document]}).status_code == 200
            assert client.post("/v1/events", json={"events": [event]}).json()["accepted"] == 1
        process.kill()
        process.wait()
        with ClickLoop(settings_for(data_dir)) as loop:
            loop.wait_for(loop.documents.revision())
            assert "kept" in [hit.id for hit in loop.search(document["text"], k=100)]
            assert loop.add_events([Event("e", "q", "click", "kept", None, Who(), None, 0.0)]).duplicates == 1


def test_an_unknown_benchmark_is_refused_with_those_that_are(
    run: Run,
) -> None:
    refused = run("bench", "gate-eternity")
    assert refused.returncode == 1
    assert "gate-errors" in refused.stderr
