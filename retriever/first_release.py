"""The first release, which everything begins with; made in a child process, so that one that serves never loads torch.

The child is `python -m clickloop.retriever.first_release`, with its order on standard input.
"""

import logging
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import orjson

from .database import Database
from .encoder import load_model
from .errors import ClickLoopError, ModelError
from .model import find_model
from .releases import Releases, new_id
from .types import Release

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Paths:
    """Where the first release comes from and where releases are kept."""

    database_url: str
    releases: Path
    model: str
    max_tokens: int | None = None


def first_release(releases: Releases, paths: Paths) -> Release:
    """The one that is there, or made now. Raises ModelError when the model cannot be had."""
    if (finished := releases.first()) is not None:
        return finished
    find_model(paths.model)
    log.info("making the first release from %s", paths.model)
    release_id = new_id("release")
    order = {
        "database_url": paths.database_url,
        "releases": str(paths.releases),
        "model": paths.model,
        "max_tokens": paths.max_tokens,
        "release_id": release_id,
    }
    child = subprocess.run(
        [sys.executable, "-m", "clickloop.retriever.first_release"],
        input=orjson.dumps(order),
        capture_output=True,
        check=False,
    )
    if child.returncode != 0:
        lines = child.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        raise ModelError(f"the first release could not be made: {lines[-1]}")
    return releases.get(release_id)


def main() -> int:
    order = orjson.loads(sys.stdin.buffer.read())
    try:
        database = Database(order["database_url"])
        model = load_model(find_model(order["model"]), order["max_tokens"])
        lineage = {"model": order["model"]}
        folder = Path(order["releases"])
        Releases(database, folder).make(model, parent=None, lineage=lineage, release_id=order["release_id"])
    except ClickLoopError as error:
        print(str(error).replace("\n", " "), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
