"""Data folders with a first index that simulations share."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from ..retriever.errors import ClickLoopError
from ..retriever.types import Document
from .cache import cached, index_key, made_once
from .ingest import index
from .loop import ClickLoop
from .settings import Settings

MARK = "simulation.txt"  # tells a folder that a simulation made
Show = Callable[[str, float, str], None]


def prepare(documents: Sequence[Document], settings: Settings, show: Show) -> Path:
    """Makes a data folder with these documents indexed; returns that in the cache of which it is a copy."""
    data_dir = settings.data_dir
    if data_dir.exists() and any(data_dir.iterdir()) and not (data_dir / MARK).exists():
        raise ClickLoopError(f"--data-dir: {str(data_dir)!r} is not a folder of an earlier simulation; name another")
    shutil.rmtree(data_dir, ignore_errors=True)
    if settings.database_url is not None or settings.qdrant.url is not None:
        raise ClickLoopError("simulate: database_url and qdrant.url must not be set: a simulation fills and drops them")
    data_dir.mkdir(parents=True)
    # First of all: whatever interrupts this one, the next simulation may empty the folder.
    (data_dir / MARK).write_text("made by `clickloop simulate`, which empties this folder when it starts\n")
    prepared = cached("simulate", index_key(documents, settings))

    def make(folder: Path) -> None:
        loop = ClickLoop(settings)
        index(loop, loop.documents.put(documents), show)
        loop.close()
        shutil.move(data_dir, folder)

    shutil.copytree(made_once(prepared, make), data_dir, dirs_exist_ok=True)
    return prepared
