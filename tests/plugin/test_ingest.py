import gzip
import json
import os
import sqlite3
import threading
import zlib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import httpx
import pytest

from clickloop.plugin.loop import ClickLoop
from clickloop.plugin.settings import Settings

Run = Callable[..., CompletedProcess[str]]
Here = Callable[..., tuple[int, str, str]]
LINES = [
    {"_id": "beir", "title": "list", "text": "of string", "metadata": {"url": "http://beir.example"}},
    {"id": "plain", "text": "map", "language": "en", "tags": ["a", {"b": None}], "payload": {"year": 2001}},
    {"_id": 7, "title": "a number as its id"},
    {"_id": "both", "id": 8, "text": "sort"},
]
STORED = {
    "beir": ("list", "of string", {"url": "http://beir.example"}),
    "plain": ("", "map", {"language": "en", "tags": ["a", {"b": None}], "year": 2001}),
    "7": ("a number as its id", "", {}),
    "both": ("", "sort", {"id": 8}),
}


def lines(*documents: Any) -> str:
    return "".join((document if isinstance(document, str) else json.dumps(document)) + "\n" for document in documents)


def stored(data_dir: Path) -> dict[str, tuple[str, str, Any]]:
    """The documents that were not there before."""
    with closing(sqlite3.connect(data_dir / "clickloop.db")) as connection:
        rows = connection.execute("SELECT id, title, text, payload FROM documents WHERE NOT deleted AND key > 12")
        return {id_: (title, text, json.loads(payload)) for id_, title, text, payload in rows}


def failed(ended: tuple[int, str, str]) -> str:
    """The line in which a command says why it failed."""
    status, _, errors = ended
    assert status == 1, ended
    line = errors.splitlines()[-1]
    assert line.startswith("clickloop: ")
    return line


def test_every_form_of_line_is_stored_and_found(
    run: Run, data_dir: Path, tmp_path: Path, settings_for: Callable[[Path], Settings]
) -> None:
    file = tmp_path / "corpus.jsonl"
    file.write_text("\n" + lines(*LINES) + "\n \n")
    for _ in range(2):
        ended = run("ingest", str(file))
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout.startswith("4 documents stored and searchable")
        assert stored(data_dir) == STORED, "the second time changes nothing"
    with ClickLoop(settings_for(data_dir)) as loop:
        hits = {hit.id: hit for hit in loop.search("map", k=100)}
        assert set(STORED) <= set(hits)
        assert len(hits) == 12 + 4
        assert hits["plain"].payload == STORED["plain"][2]
        assert [hit.id for hit in loop.search("map", filter={"language": "en"})] == ["plain"]


def test_bad_lines_are_reported_by_number_and_the_rest_is_stored(run: Run, data_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "corpus.jsonl"
    bad = {
        2: ('{"_id": "broken", "text": ', "not JSON"),
        4: ("[1, 2]", "object"),
        5: ({"text": "has no id"}, "_id"),
        6: ({"_id": "beir", "text": "again"}, "line 1"),
        7: ({"_id": "empty", "text": " "}, "neither title nor text"),
        8: ({"_id": "odd", "text": ["a", "list"]}, "text"),
        9: ({"_id": "odd", "text": "x", "payload": "y"}, "payload"),
        10: ({"_id": "x" * 513, "text": "x"}, "512"),
        11: ('{"_id": "nan", "text": "x", "score": NaN}', "not JSON"),
        12: ('{"_id": "deep", "text": "x", "tree": ' + "[" * 500 + "]" * 500 + "}", "payload"),
        13: ('{"_id": "half", "text": "\\ud800"}', "not JSON"),
    }
    written = [LINES[0], bad[2][0], "", *(bad[number][0] for number in range(4, 14)), *LINES[1:]]
    file.write_text(lines(*written))
    ended = run("ingest", str(file))
    assert ended.returncode == 1
    assert ended.stdout.startswith("4 documents stored")
    assert stored(data_dir) == STORED
    reported = [line for line in ended.stderr.splitlines() if line.startswith("line ")]
    assert [line.partition(":")[0] for line in reported] == [f"line {number}" for number in bad]
    for line, (_, reason) in zip(reported, bad.values(), strict=True):
        assert reason in line
        assert len(line) < 400
    assert "11 lines were left out" in ended.stderr


def test_a_compressed_file_is_read(run: Run, data_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "corpus.jsonl.gz"
    file.write_bytes(gzip.compress(lines(*LINES).encode()))
    ended = run("ingest", str(file))
    assert ended.returncode == 0, ended.stderr
    assert stored(data_dir) == STORED


@pytest.mark.parametrize("name", ["CORPUS.JSONL.GZ", "corpus.jsonl"])
def test_a_compressed_file_is_known_by_how_it_begins(here: Here, data_dir: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(gzip.compress(lines(*LINES).encode()))
    status, _, errors = here("ingest", str(tmp_path / name), "--no-wait")
    assert status == 0, errors
    assert stored(data_dir) == STORED


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_byte_order_mark_is_no_part_of_the_first_line(
    here: Here, data_dir: Path, tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    (tmp_path / "corpus.jsonl").write_bytes(pack(lines(*LINES).encode("utf-8-sig")))
    status, _, errors = here("ingest", str(tmp_path / "corpus.jsonl"), "--no-wait")
    assert status == 0, errors
    assert stored(data_dir) == STORED


def test_standard_input_is_read(run: Run, data_dir: Path) -> None:
    ended = run("ingest", "-", input=lines(*LINES))
    assert ended.returncode == 0, ended.stderr
    assert stored(data_dir) == STORED


def test_a_pipe_with_a_name_is_read(here: Here, data_dir: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    many = lines(*({"_id": f"n{number}", "text": "list"} for number in range(501)))
    writer = threading.Thread(target=pipe.write_text, args=(many,), daemon=True)
    writer.start()
    status, output, errors = here("ingest", str(pipe), "--no-wait")
    assert status == 0, errors
    assert output.startswith("501 documents stored")
    assert len(stored(data_dir)) == 501


@pytest.mark.parametrize("harm", ["cut", "overwritten"])
def test_of_a_damaged_file_what_can_be_read_is_stored(here: Here, data_dir: Path, tmp_path: Path, harm: str) -> None:
    file = tmp_path / "corpus.jsonl.gz"
    stream = zlib.compressobj(wbits=31)  # gzip
    sound = stream.compress(lines(*LINES).encode()) + stream.flush(zlib.Z_FULL_FLUSH)
    file.write_bytes(sound + (b"" if harm == "cut" else b"\xff" * 50))
    line = failed(here("ingest", str(file), "--no-wait"))
    assert "damaged" in line
    assert "corpus.jsonl.gz" in line
    assert "what could be read before was stored" in line
    if harm == "cut":
        assert stored(data_dir) == STORED


@pytest.mark.parametrize(("name", "reason"), [("missing.jsonl", "No such file"), ("folder", "directory")])
def test_a_file_that_cannot_be_read_is_named(
    here: Here, data_dir: Path, tmp_path: Path, name: str, reason: str
) -> None:
    (tmp_path / "folder").mkdir()
    line = failed(here("ingest", str(tmp_path / name)))
    assert name in line
    assert reason in line
    assert stored(data_dir) == {}


def test_an_empty_file_is_said_to_be_empty(here: Here, data_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    _, output, errors = here("ingest", str(tmp_path / "empty.jsonl"))
    assert output == ""
    assert "no documents" in errors
    assert stored(data_dir) == {}


def test_a_running_service_takes_the_documents(run: Run, loop: ClickLoop, api: httpx.Client) -> None:
    ended = run("ingest", "-", input=lines(*LINES), CLICKLOOP_DATA_DIR=str(loop.settings.data_dir))
    assert ended.returncode == 0, ended.stderr
    found = api.post("/v1/search", json={"query": "map", "k": 100}).json()["hits"]
    assert set(STORED) <= {hit["id"] for hit in found}
