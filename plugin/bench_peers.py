"""Other search services on the same documents, each in a process of its own and with its own index."""

import importlib.util
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import orjson

from .load import Clients, free_port, get, post, served

TUTORIAL = Path(__file__).parent / "peers" / "tutorial.py"
HAYHOOKS = Path(__file__).parent / "peers" / "hayhooks"
SENT = 1000  # documents a request


@dataclass(frozen=True, slots=True)
class Peer:
    """A running service: its port, and the request for the ten results of a query."""

    name: str
    port: int
    ask: Callable[[str], bytes]


def peers_python(given: Path | None) -> str | None:
    """The interpreter that has the peers' packages: the one given, or this one where it has them."""
    if given is not None:
        return str(given)
    return sys.executable if importlib.util.find_spec("txtai") is not None else None


@contextmanager
def txtai(python: str, model: str, corpus: Path, folder: Path) -> Iterator[Peer]:
    """txtai's own API with its default index and with contents, as its documentation begins."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = folder / "whole"
    if not whole.exists():
        shutil.rmtree(folder / "index", ignore_errors=True)
    config = folder / "app.yml"
    settings = {
        "path": str(folder / "index"),
        "writable": True,
        "embeddings": {"path": model, "content": True},
    }
    config.write_bytes(orjson.dumps(settings))  # JSON is YAML
    port = free_port()
    command = [python, "-m", "uvicorn", "txtai.api:app", "--port", str(port), "--log-level", "warning"]
    with served(command, port, get("/count"), folder / "log", CONFIG=str(config)):
        if not whole.exists():
            _index(port, corpus)
            whole.touch()
        yield Peer("txtai API", port, lambda query: get(f"/search?query={quote(query)}&limit=10"))


@contextmanager
def tutorial(python: str, model: str, corpus: Path, folder: Path) -> Iterator[Peer]:
    """FastAPI, `encode` and qdrant-client's local mode: see peers/tutorial.py."""
    whole, index = folder / "whole", folder / "index"
    if not whole.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    port = free_port()
    command = [python, str(TUTORIAL), model, str(corpus), str(index), str(port)]
    with served(command, port, get("/health"), folder / "log"):
        whole.touch()
        yield Peer("FastAPI, encode, qdrant local", port, lambda query: post("/search", {"query": query}))


@contextmanager
def haystack(python: str, model: str, corpus: Path, folder: Path) -> Iterator[Peer]:
    """Haystack's embedder and retriever in memory behind hayhooks: see peers/hayhooks."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    command = [str(Path(python).parent / "hayhooks"), "run", "--port", str(port), "--pipelines-dir", str(HAYHOOKS)]
    command += ["--without-monitoring", "--without-tracing"]
    given = {"PEER_MODEL": model, "PEER_CORPUS": str(corpus), "PEER_INDEX": str(folder / "index.json")}

    def ask(query: str) -> bytes:
        return post("/search/run", {"query": query})

    with served(command, port, ask("ready?"), folder / "log", None, **given):
        yield Peer("Haystack", port, ask)


PEERS = {"txtai": txtai, "tutorial": tutorial, "haystack": haystack}
SLOW = {"tutorial", "haystack"}


def _index(port: int, corpus: Path) -> None:
    with corpus.open("rb") as lines:
        documents = [orjson.loads(line) for line in lines]
    rows = [{"id": one["_id"], "text": f"{one.get('title', '')}\n{one['text']}".strip()} for one in documents]
    client = Clients(port, 1)
    client.ask([post("/add", rows[start : start + SENT]) for start in range(0, len(rows), SENT)])
    client.ask([get("/index")])
