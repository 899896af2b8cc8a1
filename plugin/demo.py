"""`clickloop demo`: the whole loop on the Python standard library's documentation.

The documents are real and so is every part of the service. The people are simulated.
"""

import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table

from ..retriever.errors import ClickLoopError
from ..retriever.types import Document
from ..trainer.people import People
from ..trainer.truth import MEASURES, measure
from .collection import Collection, Question
from .ingest import index
from .loop import ClickLoop
from .prepared import Show, empty
from .progress import Steps
from .settings import Settings, own_settings
from .stdlib import documents

SEARCHES = 26_000  # before the first night, each by somebody else
SENSELESS = 4_000  # before a night without information
SHOWN = 20  # results a person can scroll through
BIAS = 0.5  # a result at rank r is looked at with probability r^-BIAS
NOISE = 0.05  # share of the wrong results looked at that are clicked all the same
MAX_TOKENS = 96  # of a docstring are read
HOLDOUT = 0.33  # few different questions: more of them have to judge than a real log needs
SOUP = 1  # training a night: three, the default, teach this demo nothing more and take three times as long
TAUGHT_TOKENS = 48  # of a docstring are trained on; more take longer
MIN_PAIRS = 10  # so few come from clicks without information; the gate shall see what is made of them
CLIENTS = 6


def questions(known: frozenset[str]) -> tuple[list[Question], list[Question]]:
    """Those that people search, and those that nobody searches and that only measure.

    A block of the file: the right documents, then the wordings. "?" marks the one that only measures: of each block
    the wording that shares most of its words with the others, where it shares any. Documents that this Python does not
    have are left out, and blocks without any.
    """
    searched: list[Question] = []
    unseen: list[Question] = []
    right: frozenset[str] = frozenset()
    for line in (Path(__file__).parent / "demo_queries.txt").read_text(encoding="utf-8").splitlines():
        if not line.strip() or line.startswith("# "):
            continue
        if not line.startswith(" "):
            right = frozenset(line.split()) & known
        elif right:
            text = line.strip()
            target = unseen if text.startswith("? ") else searched
            target.append(Question(text.removeprefix("? "), right))
    return searched, unseen


def demo_collection() -> Collection:
    """The standard library's documentation with all questions."""
    found = [Document(item["id"], item["title"], item["text"]) for item in documents()]
    searched, unseen = questions(frozenset(document.id for document in found))
    return Collection(found, [*searched, *unseen])


def demo(nights: int, data_dir: Path) -> int:
    """Exit status 0 when a model was promoted and the night without information was refused, otherwise 1."""
    console = Console()
    console.print("[bold]clickloop demo[/bold]: a search over the standard library that learns from its users.")
    console.print("The service, its documents and its nights are real; [bold]the people are simulated[/bold].")
    settings = own_settings(data_dir=data_dir, max_tokens=MAX_TOKENS, schedule={"enabled": False})
    empty(data_dir, "demo")
    started = time.monotonic()
    key = secrets.token_urlsafe(24)
    found = documents()
    searched, unseen = questions(frozenset(document["id"] for document in found))
    console.print(
        f"{len(found)} documents; {len(searched)} questions that people search, {len(unseen)} that only measure."
    )
    with Steps() as steps:
        _ingest(settings, found, steps.show)
    outcomes: list[str] = []
    truth: list[dict[str, float]] = []
    with _service(data_dir, key) as api, Steps() as steps:
        truth.append(_measure(api, unseen, "measuring on unseen questions", steps.show))
        for night in range(1, nights + 1):
            senseless = nights > 1 and night == nights
            people = People(seed=night, bias=BIAS, noise=NOISE)
            _searching(api, people, searched, senseless, night, steps.show)
            outcomes.append(_night(api, night, steps.show))
            truth.append(_measure(api, unseen, f"night {night}: measuring", steps.show))
    _table(console, outcomes, truth, nights)
    gain = max(row["nDCG@10"] for row in truth) - truth[0]["nDCG@10"]
    console.print(f"True nDCG@10 on questions nobody searched: {gain:+.3f}. {time.monotonic() - started:.0f} seconds.")
    _reports(console, settings)
    refused = nights == 1 or outcomes[-1] != "promoted"
    if not refused:
        console.print("[red]The night without information was promoted: that must not happen.[/red]")
    if "promoted" not in outcomes:
        console.print("[red]No model was promoted.[/red]")
    return 0 if refused and "promoted" in outcomes else 1


def _ingest(settings: Settings, found: Sequence[dict[str, str]], show: Show) -> None:
    loop = ClickLoop(settings)
    revision = loop.documents.put([Document(item["id"], item["title"], item["text"]) for item in found])
    index(loop, revision, show)
    loop.close()


class Api:
    """JSON over HTTP with one kept connection a thread: the people must not be slower than the service."""

    def __init__(self, port: int, key: str) -> None:
        self._port, self._key = port, key
        self._local = threading.local()

    def call(self, method: str, path: str, body: object = None) -> Any:
        """Raises ClickLoopError for an answer that is an error, OSError where nobody listens."""
        connection: HTTPConnection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = HTTPConnection("127.0.0.1", self._port, timeout=60)
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
        for last in (False, True):
            try:
                connection.request(method, path, None if body is None else orjson.dumps(body), headers)
                answer = connection.getresponse()
                content = answer.read()
                break
            except (OSError, HTTPException):
                connection.close()  # the service ends connections that were idle; the next request opens a new one
                if last:
                    raise
        if answer.status >= 400:
            raise ClickLoopError(f"the service answered {answer.status}: {content[:300].decode(errors='replace')}")
        return orjson.loads(content)


@contextmanager
def _service(data_dir: Path, key: str) -> Iterator[Api]:
    """`clickloop serve` as a process of its own, and a client of it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "clickloop.plugin.cli", "serve", "--port", str(port), "--data-dir", str(data_dir)]
    with (data_dir / "serve.log").open("wb") as log:
        server = subprocess.Popen(command, env=_environment(key), stdout=log, stderr=log)
        try:
            api = Api(port, key)
            while not _ready(api):
                if server.poll() is not None:
                    raise ClickLoopError(f"the service ended at its start; see {data_dir / 'serve.log'}")
                time.sleep(0.2)
            yield api
        finally:
            server.terminate()
            server.wait()


def _environment(key: str) -> dict[str, str]:
    return {
        "CLICKLOOP_TRAINING__SOUP": str(SOUP),
        "CLICKLOOP_TRAINING__MAX_TOKENS": str(TAUGHT_TOKENS),
        **os.environ,
        "CLICKLOOP_ADMIN_KEY": key,
        "CLICKLOOP_SCHEDULE__ENABLED": "false",
        "CLICKLOOP_MINING__MIN_PAIRS": str(MIN_PAIRS),
        "CLICKLOOP_SPLIT__HOLDOUT": str(HOLDOUT),
        "CLICKLOOP_PROMOTION__MODE": "auto",  # nobody is there who would approve
    }


def _ready(api: Api) -> bool:
    try:
        api.call("GET", "/ready")
    except (OSError, HTTPException, ClickLoopError):
        return False
    return True


def _searching(api: Api, people: People, searched: Sequence[Question], senseless: bool, night: int, show: Show) -> None:
    """A day of searches and clicks over HTTP; people click what is right, or, senselessly, by rank alone."""
    count, step = SENSELESS if senseless else SEARCHES, f"night {night}: people search"
    asked = people.queries(count, len(searched))
    done, started = 0, time.monotonic()

    def ask(number: int) -> Any:
        body = {"query": searched[asked[number]].text, "k": SHOWN, "client_id": f"{night}-{number}"}
        return api.call("POST", "/v1/search", body)

    with ThreadPoolExecutor(CLIENTS) as pool:
        for first in range(0, count, 100):
            numbers = range(first, min(first + 100, count))
            events = []
            for number, answer in zip(numbers, pool.map(ask, numbers), strict=True):
                shown = [hit["id"] for hit in answer["hits"]]
                right = searched[asked[number]].right
                ranks = people.senseless_clicks(shown) if senseless else people.clicks(shown, right)
                events += [
                    {
                        "query_id": answer["query_id"],
                        "action": "click",
                        "document_id": shown[rank - 1],
                        "rank": rank,
                        "client_id": f"{night}-{number}",
                    }
                    for rank in ranks
                ]
            api.call("POST", "/v1/events", {"events": events})
            done += len(numbers)
            show(step, done / count, f"{done / (time.monotonic() - started):.0f} searches/s")


def _night(api: Api, night: int, show: Show) -> str:
    """Runs a night and returns its outcome."""
    run_id = api.call("POST", "/v1/runs")["id"]
    while True:
        run = api.call("GET", f"/v1/runs/{run_id}")
        if run["state"] == "finished":
            return str(run["decision"]["outcome"])
        if run["state"] == "running":
            show(f"night {night}: {run['step']}", run["progress"], "")
        time.sleep(0.3)


def _measure(api: Api, unseen: Sequence[Question], step: str, show: Show) -> dict[str, float]:
    """True metrics of what the service answers to questions that nobody searched; not logged."""
    ranked = []
    for i, question in enumerate(unseen):
        answer = api.call("POST", "/v1/search", {"query": question.text, "log": False})
        ranked.append([hit["id"] for hit in answer["hits"]])
        show(step, (i + 1) / len(unseen), "")
    return {name: float(values.mean()) for name, values in measure(ranked, [q.right for q in unseen]).items()}


def _table(console: Console, outcomes: Sequence[str], truth: Sequence[dict[str, float]], nights: int) -> None:
    table = Table(title="What the service answers to questions nobody searched (true, not estimated)")
    table.add_column("after")
    table.add_column("gate")
    for name in MEASURES:
        table.add_column(name, justify="right")
    for number, row in enumerate(truth):
        after = "ingest" if number == 0 else f"night {number}"
        if number == nights > 1:
            after += ", clicks without information"
        outcome = "" if number == 0 else outcomes[number - 1].replace("_", " ")
        table.add_row(after, outcome, *(f"{row[name]:.3f}" for name in MEASURES))
    console.print(table)


def _reports(console: Console, settings: Settings) -> None:
    """Writes the page of every run beside the data and says how to go on."""
    loop = ClickLoop(settings)
    for run in reversed(loop.runs.page(50)[0]):
        path = settings.data_dir / f"{run.id}.html"
        path.write_text(loop.reports.html(run), encoding="utf-8")
        console.print(f"Report: {path}", soft_wrap=True, markup=False)
    loop.close()
    console.print(f"Go on: clickloop serve --data-dir {settings.data_dir}", soft_wrap=True, markup=False)
