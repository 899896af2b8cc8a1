"""Data folders with a first index that simulations share, and what else they keep for each other."""

import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from ..retriever.errors import ClickLoopError
from ..retriever.model import find_model
from ..retriever.types import Document
from .ingest import index
from .loop import ClickLoop
from .settings import Settings

MARK = "simulation.txt"  # tells a folder that a simulation made
Show = Callable[[str, float, str], None]


def prepare(folder: Path, documents: Sequence[Document], settings: Settings, show: Show) -> Path:
    """Makes a data folder with these documents of `folder` indexed; returns that in the cache of which it is a copy."""
    data_dir = settings.data_dir
    if data_dir.exists() and any(data_dir.iterdir()) and not (data_dir / MARK).exists():
        raise ClickLoopError(f"--data-dir: {str(data_dir)!r} is not a folder of an earlier simulation; name another")
    shutil.rmtree(data_dir, ignore_errors=True)
    if settings.database_url is not None or settings.qdrant.url is not None:
        raise ClickLoopError("simulate: database_url and qdrant.url must not be set: a simulation fills and drops them")
    prepared = cached(_key(folder, settings))
    if not prepared.exists():
        loop = ClickLoop(settings)
        index(loop, loop.documents.put(documents), show)
        loop.close()
        partial = prepared.with_name(f"{prepared.name}.{os.getpid()}")
        shutil.copytree(data_dir, partial)
        shutil.rmtree(data_dir)
        try:
            partial.rename(prepared)
        except OSError:  # another simulation was faster
            shutil.rmtree(partial)
    shutil.copytree(prepared, data_dir)
    (data_dir / MARK).write_text("made by `clickloop simulate`, which empties this folder when it starts\n")
    return prepared


def cached(name: str) -> Path:
    """Where simulations keep something of this name for each other."""
    folder = Path(os.environ.get("XDG_CACHE_HOME", "") or Path.home() / ".cache") / "clickloop" / "simulate"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / name


def with_code(found: "hashlib._Hash", layer: str) -> str:
    """The digest, which also changes with the program."""
    for path in sorted((Path(__file__).parent.parent / layer).rglob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()[:32]


def _key(folder: Path, settings: Settings) -> str:
    """Of everything that the first index depends on, this program included."""
    found = hashlib.sha256((folder / "corpus.jsonl").read_bytes())
    model = find_model(settings.model)
    weights = [path.stat() for path in sorted(Path(model).rglob("*")) if path.is_file()] if Path(model).is_dir() else []
    found.update(repr((model, settings.max_tokens, [(stat.st_size, stat.st_mtime_ns) for stat in weights])).encode())
    return with_code(found, "retriever")
