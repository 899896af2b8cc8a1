"""What a search costs without a service around it: `python -m clickloop.plugin.floor DATA_DIR`, orders on stdin.

An order is a line of JSON. {"queries", "filter"} is answered by the seconds that encoder and index took for each, one
after the other, without texts, HTTP or log; {"exact"} by the scores of the ten nearest documents by exact search.
"""

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from ..retriever.filters import parse_filter
from ..retriever.search import OpenBuild
from ..retriever.shadow import ShadowIndex
from .loop import ClickLoop
from .settings import own_settings

K = 10


def main() -> int:
    with ClickLoop(own_settings(data_dir=Path(sys.argv[1]))) as loop:
        build = loop.live.current()
        assert build is not None
        for line in sys.stdin.buffer:
            order = orjson.loads(line)
            answer: Any = _exact(loop, build, order["exact"]) if "exact" in order else _timed(build, order)
            sys.stdout.buffer.write(orjson.dumps(answer) + b"\n")
            sys.stdout.buffer.flush()
    return 0


def _timed(build: OpenBuild, order: dict[str, Any]) -> list[float]:
    wanted, each = parse_filter(order["filter"]), []
    for query in order["queries"]:
        started = time.perf_counter()
        build.index.query(build.encoder.query(query), K, wanted)
        each.append(time.perf_counter() - started)
    return each


def _exact(loop: ClickLoop, build: OpenBuild, queries: list[str]) -> list[list[float]]:
    newest = loop.releases.vectors(build.release).newest()
    shadow = ShadowIndex(newest.keys, newest.vectors(slice(None)))
    _, scores = shadow.query(np.stack([build.encoder.query(query) for query in queries]), K)
    return [list(row) for row in scores.tolist()]


if __name__ == "__main__":
    sys.exit(main())
