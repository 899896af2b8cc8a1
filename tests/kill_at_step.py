"""Processes that kill themselves at a boundary of a step. The last thing that they do is to write a document."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from typing import Any, Literal

from clickloop.plugin.loop import ClickLoop
from clickloop.plugin.settings import Settings
from clickloop.retriever import compaction
from clickloop.retriever.owner import Owner
from clickloop.retriever.types import Document
from clickloop.trainer import promote
from clickloop.trainer.challenge import Challengers

PATIENCE_SECONDS = 120
# Each is forked off a process that did nothing but import: torch and what comes with it take as long as a whole night.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([__name__, "clickloop.trainer.finetune", "sentence_transformers", "datasets"])
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


def kill(settings: Settings, who: Literal["night", "compact", "serve"], when: str, step: str) -> None:
    """Lets a process run until it dies `when` a step: "before" or "after" a function of `STEPS`, or, of a night's steps
    by the names that it shows, "at" the beginning or "amid" it, when half of it is done.
    """
    process = PROCESSES.Process(target=_run, args=(settings.for_child(), who, when, step))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL, f"{who} ended with {process.exitcode} instead of dying {when} {step}"


def _run(settings: dict[str, Any], who: str, when: str, step: str) -> None:
    signal.alarm(PATIENCE_SECONDS)
    loop = ClickLoop(Settings(**settings))

    def die() -> None:
        loop.documents.put([LAST])
        os.kill(os.getpid(), signal.SIGKILL)

    def show(begun: str, share: float) -> None:
        if begun == step and (when == "at" or (when == "amid" and share >= 0.5)):
            die()

    if step in STEPS:
        _die_at(die, when, step)
    if who == "night":
        run = loop.runs.unfinished()
        assert run is not None
        loop.run_night(run.id, show)
    elif who == "compact":
        loop.compaction().run()
    else:
        loop.start(nights=False)
        signal.pause()


def _die_at(die: Callable[[], None], when: str, step: str) -> None:
    original: Callable[..., Any] = getattr(STEPS[step], step)

    def killed(*args: Any, **kwargs: Any) -> None:
        if when == "after":
            original(*args, **kwargs)
        die()

    setattr(STEPS[step], step, killed)
