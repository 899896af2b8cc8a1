"""Data folders that a command empties and fills for itself, and the first index that simulations share."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from ..retriever.errors import ClickLoopError
from ..retriever.types import Document
from .cache import cached, index_key, made_once
from .ingest import index
from .loop import ClickLoop
from .settings import Settings

Show = Callable[[str, float, str], None]


def prepare(documents: Sequence[Document], settings: Settings, show: Show) -> Path:
    """Makes a data folder with these documents indexed; returns that in the cache of which it is a copy."""
    data_dir = settings.data_dir
    empty(data_dir, "simulation")
    prepared = cached("simulate", index_key(documents, settings))

    def make(folder: Path) -> None:
        loop = ClickLoop(settings)
        index(loop, loop.documents.put(documents), show)
        loop.close()
        shutil.move(data_dir, folder)

    shutil.copytree(made_once(prepared, make), data_dir, dirs_exist_ok=True)
    return prepared


def empty(data_dir: Path, what: str) -> None:
    """Makes the folder anew. Raises ClickLoopError, and deletes nothing, where none of this kind made it before."""
    mark = data_dir / f"{what}.txt"
    if data_dir.exists() and not mark.exists() and (not data_dir.is_dir() or any(data_dir.iterdir())):
        raise ClickLoopError(f"--data-dir: {str(data_dir)!r} is not a folder of an earlier {what}; name another one")
    shutil.rmtree(data_dir, ignore_errors=True)
    try:
        data_dir.mkdir(parents=True)
    except OSError as error:
        raise ClickLoopError(
            f"--data-dir: {str(data_dir)!r} cannot be made ({error.strerror}); name another one"
        ) from None
    # First of all: whatever interrupts this one, the next one may empty the folder.
    mark.write_text(f"made by a {what} of clickloop; the next one empties this folder when it starts\n")
