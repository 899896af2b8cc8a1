"""One process of a switch that kills itself at a boundary: kill_at_step.py night|compact|serve before|after STEP

Its settings come on standard input. The last thing it does is to write a document; what it acknowledged is printed.
"""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import orjson

from clickloop.plugin.loop import ClickLoop
from clickloop.plugin.settings import Settings
from clickloop.retriever import compaction
from clickloop.retriever.owner import Owner
from clickloop.retriever.types import Document
from clickloop.trainer import promote
from clickloop.trainer.challenge import Challengers

PATIENCE_SECONDS = 120
LAST = Document("last", "", "0 k written in the last moment")
STEPS: dict[str, object] = {
    "build_index": promote,
    "check_index": promote,
    "mark_ready": promote,
    "ask_owner": promote,
    "keep": Challengers,
    "make_index": compaction,
    "verify_index": compaction,
    "_hand_over": compaction.Compaction,
    "_catch_up": Owner,
    "_verify": Owner,
    "_switch": Owner,
    "_retire": Owner,
}


def main(who: str, when: str, step: str) -> None:
    signal.alarm(PATIENCE_SECONDS)
    loop = ClickLoop(Settings(**orjson.loads(sys.stdin.buffer.read())))

    def die() -> None:
        loop.documents.put([LAST])
        print(LAST.id, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

    original: Callable[..., Any] = getattr(STEPS[step], step)

    def killed(*args: Any, **kwargs: Any) -> None:
        if when == "after":
            original(*args, **kwargs)
        die()

    setattr(STEPS[step], step, killed)
    if who == "night":
        run = loop.runs.unfinished()
        assert run is not None
        loop.run_night(run.id, lambda _step, _share: None)
    elif who == "compact":
        loop.compaction().run()
    else:
        loop.start(nights=False)
        signal.pause()


if __name__ == "__main__":
    main(*sys.argv[1:])
