"""What is costly to make and the same every time is kept between runs of simulations and benchmarks."""

import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import orjson

from ..retriever.model import find_model
from ..retriever.types import Document
from .settings import Settings


def cached(kind: str, name: str) -> Path:
    folder = Path(os.environ.get("XDG_CACHE_HOME", "") or Path.home() / ".cache") / "clickloop" / kind
    folder.mkdir(parents=True, exist_ok=True)
    return folder / name


def made_once(path: Path, make: Callable[[Path], None]) -> Path:
    """The cached folder, made by `make` in a place of its own first where there is none."""
    if not path.exists():
        partial = path.with_name(f"{path.name}.{os.getpid()}")
        shutil.rmtree(partial, ignore_errors=True)
        make(partial)
        try:
            partial.rename(path)
        except OSError:  # another process was faster
            shutil.rmtree(partial)
    return path


def index_key(documents: Sequence[Document], settings: Settings) -> str:
    """Of everything that a first index depends on, this program included."""
    found = hashlib.sha256()
    for document in documents:
        found.update(orjson.dumps((document.id, document.title, document.text, document.payload)))
    model = find_model(settings.model)
    weights = [path.stat() for path in sorted(Path(model).rglob("*")) if path.is_file()] if Path(model).is_dir() else []
    sizes = [(stat.st_size, stat.st_mtime_ns) for stat in weights]
    found.update(repr((model, settings.max_tokens, settings.payload_indexes, sizes)).encode())
    return with_code(found, "retriever")


def with_code(found: "hashlib._Hash", layer: str) -> str:
    """The digest, which also changes with the program."""
    for path in sorted((Path(__file__).parent.parent / layer).rglob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()[:32]
