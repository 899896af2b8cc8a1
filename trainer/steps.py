"""Where a run is, and what each of its steps took."""

import time
from collections.abc import Callable

from .runs import Runs

Progress = Callable[[str, float], None]  # step, share of it that is done


class Steps:
    """Where a run is, for whoever watches: at once on the screen, about once a second in the database."""

    def __init__(
        self,
        runs: Runs,
        run_id: str,
        show: Progress,
        timings: dict[str, float],
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """`check` raises where no other step may begin."""
        self._runs, self._run_id, self._show, self._timings = runs, run_id, show, timings
        self._check = check
        self._step, self._began, self._written = "", time.monotonic(), 0.0

    def begin(self, step: str) -> None:
        self._check()
        self.end()
        self._step, self._began = step, time.monotonic()
        self._runs.update(self._run_id, step=step, progress=0.0)
        self._show(step, 0.0)

    def progress(self, share: float) -> None:
        now = time.monotonic()
        self._show(self._step, share)
        if now - self._written > 1.0:
            self._written = now
            self._runs.update(self._run_id, progress=share)

    def end(self) -> None:
        if self._step:
            seconds = self._timings.get(self._step, 0.0) + time.monotonic() - self._began
            self._timings[self._step] = round(seconds, 3)
