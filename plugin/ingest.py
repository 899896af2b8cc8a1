"""Reading documents from JSON lines."""

import codecs
import contextlib
import gzip
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import cast

import orjson

from ..retriever.documents import check
from ..retriever.errors import ClickLoopError, InvalidInput
from ..retriever.types import Document
from .loop import ClickLoop
from .progress import Steps

BATCH = 500
GZIP = b"\x1f\x8b"  # how its files begin (RFC 1952)
SHOWN_PROBLEMS = 20


class Problems:
    """Lines that were left out: the first ones are shown, all are counted."""

    def __init__(self) -> None:
        self.count = 0
        self.damage: str | None = None

    def add(self, line: int, reason: str) -> None:
        self.count += 1
        if self.count <= SHOWN_PROBLEMS:
            print(f"line {line}: {reason}; left out", file=sys.stderr)
        elif self.count == SHOWN_PROBLEMS + 1:
            print("… more lines with problems are only counted", file=sys.stderr)


def ingest(loop: ClickLoop, file: str, wait: bool) -> int:
    """Exit status 0, or 1 when a line was left out; the others are stored all the same."""
    problems = Problems()
    stored, started = 0, time.monotonic()
    with Steps() as steps:
        for batch, share in _batches(file, problems):
            revision = loop.documents.put(batch)
            stored += len(batch)
            steps.show("storing", share, f"{stored} documents")
        if stored == 0 and problems.damage is None:
            print("no documents were stored", file=sys.stderr)
            return 1 if problems.count else 0
        if wait and stored:
            index(loop, revision, steps.show)
    if problems.damage is not None:
        raise InvalidInput("file", file, f"it is damaged ({problems.damage}); what could be read before was stored")
    seconds = time.monotonic() - started
    done = "stored and searchable" if wait else "stored"
    print(f"{stored} documents {done} in {seconds:.1f} s ({stored / seconds:.0f} docs/s)")
    if problems.count:
        print(f"{problems.count} lines were left out", file=sys.stderr)
    return 1 if problems.count else 0


def index(loop: ClickLoop, revision: int, show: Callable[[str, float, str], None]) -> None:
    """Returns when the index has the revision: its owner does the work, and where there is none, this process."""
    owner = loop.make_owner()
    while not owner.acquire():
        build = loop.releases.live()
        reached = 0 if build is None else build.revision
        show("the running service indexes", min(reached / revision, 1.0), "")
        if reached >= revision:
            return
        time.sleep(0.2)
    try:
        show("opening the index", 0.0, "")
        owner.open()
        started, first = time.monotonic(), None

        def progress(reached: int, newest: int) -> None:
            nonlocal first
            if first is None:
                first = reached
            rate = (reached - first) / max(time.monotonic() - started, 1e-3)
            left = f", {clock((newest - reached) / rate)} left" if rate else ""
            show("embedding and indexing", reached / max(newest, 1), f"{rate:.0f} docs/s{left}")

        owner.index_all(progress)
    finally:
        owner.close()


def clock(seconds: float) -> str:
    """Hours, minutes and seconds: 1:02:03, or 2:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _batches(file: str, problems: Problems) -> Iterator[tuple[list[Document], float]]:
    """Documents in batches with the share of the file that was read."""
    seen: dict[str, int] = {}
    batch: list[Document] = []
    with _opened(file) as (raw, share):
        for number, line in enumerate(_readable_lines(raw, problems), 1):
            if not line.strip():
                continue
            try:
                document = parse_document(line)
                if (first := seen.setdefault(document.id, number)) != number:
                    raise InvalidInput("_id", document.id, f"line {first} has it already")
            except ClickLoopError as error:
                problems.add(number, str(error))
                continue
            batch.append(document)
            if len(batch) == BATCH:
                yield batch, share()
                batch = []
    if batch:
        yield batch, 1.0


@contextlib.contextmanager
def _opened(file: str) -> Iterator[tuple[BufferedReader, Callable[[], float]]]:
    if file == "-":
        yield cast(BufferedReader, sys.stdin.buffer), lambda: 0.0
        return
    path = Path(file)
    try:
        raw = path.open("rb")
    except OSError as error:
        raise InvalidInput("file", file, f"it cannot be read ({error.strerror})") from None
    with raw:
        size = max(path.stat().st_size, 1)
        yield raw, lambda: raw.tell() / size if raw.seekable() else 0.0


def _readable_lines(raw: BufferedReader, problems: Problems) -> Iterator[bytes]:
    """The lines up to the first damage of the file, unpacked where it is compressed, without a byte order mark."""
    try:
        lines = gzip.GzipFile(fileobj=raw) if raw.peek(len(GZIP)).startswith(GZIP) else raw
        yield next(lines, b"").removeprefix(codecs.BOM_UTF8)
        yield from lines
    except (OSError, EOFError, zlib.error) as error:
        problems.damage = str(error)


def parse_document(line: bytes) -> Document:
    """Of a line {"_id" or "id", "title", "text", …}; other fields are payload. Raises InvalidInput."""
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise InvalidInput("line", line.decode(errors="replace").strip(), f"not JSON ({error})") from None
    if not isinstance(value, dict):
        raise InvalidInput("line", value, 'give an object: {"_id": …, "title": …, "text": …}')
    fields = dict(value)
    identity = fields.pop("_id", None) if "_id" in fields else fields.pop("id", None)
    if isinstance(identity, int) and not isinstance(identity, bool):
        identity = str(identity)
    title, text = fields.pop("title", None) or "", fields.pop("text", None) or ""
    for name, part in (("_id", identity), ("title", title), ("text", text)):
        if not isinstance(part, str):
            raise InvalidInput(name, part, "give a text")
    payload = fields.pop("payload", None) or {}
    metadata = fields.pop("metadata", None) or {}  # BEIR's name for it
    for name, part in (("payload", payload), ("metadata", metadata)):
        if not isinstance(part, dict):
            raise InvalidInput(name, part, "give an object")
    document = Document(identity, title, text, {**fields, **metadata, **payload})
    check(document)
    return document
