"""Makes the first release in a process of its own: `python -m clickloop.retriever.first_release`, order on stdin."""

import sys
from pathlib import Path

import orjson

from .database import Database
from .encoder import load_model
from .errors import ClickLoopError
from .model import find_model
from .releases import Releases


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
