"""Progress bars on a terminal; plain lines elsewhere."""

import math
import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

LINES_SECONDS = 10.0  # between plain lines


class Steps:
    """Shows a run's steps one under the other, each with a bar."""

    def __init__(self) -> None:
        columns = (
            TextColumn("{task.description:38}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        self._progress = Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty())
        self._tasks: dict[str, TaskID] = {}
        self._said = 0.0

    def __enter__(self) -> "Steps":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if kind is None:
            for task in self._tasks.values():
                self._progress.update(task, completed=1.0)
        self._progress.stop()

    def show(self, step: str, share: float, note: str = "") -> None:
        """`share` of the step that is done, 0 to 1. A new step ends the one before."""
        if step not in self._tasks:
            for task in self._tasks.values():
                self._progress.update(task, completed=1.0)
            self._tasks[step] = self._progress.add_task(step, total=1.0, note=note)
            self._plain(step, share, note, always=True)
        self._progress.update(self._tasks[step], completed=share, note=note)
        self._plain(step, share, note)

    def _plain(self, step: str, share: float, note: str, always: bool = False) -> None:
        now = time.monotonic()
        if self._progress.disable and (always or now - self._said > LINES_SECONDS):
            self._said = now
            print(f"{step}: {100 * share:.0f} % {note}".rstrip(), file=sys.stderr, flush=True)


class Status:
    """Says what a long piece of work is at, where nobody knows its share: in a line that changes, or in lines."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._status = Console(stderr=True).status(name)
        self._said = -math.inf

    def __enter__(self) -> Self:
        self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._status.stop()

    def say(self, what: str) -> None:
        self._status.update(f"{self._name}: {escape(what)}")
        now = time.monotonic()
        if not sys.stderr.isatty() and now - self._said > LINES_SECONDS:
            self._said = now
            print(f"{self._name}: {what}", file=sys.stderr, flush=True)
