"""Starting nightly runs in a child process, on a schedule or on demand: `python -m clickloop.plugin.nights RUN`."""

import logging
import subprocess
import sys
import threading
from collections.abc import Callable

from apscheduler.schedulers.background import BackgroundScheduler

from ..retriever.errors import Conflict
from ..trainer.runs import Run, Runs
from .children import begin, spawn
from .settings import Settings, cron_trigger

log = logging.getLogger(__name__)

GRACE_SECONDS = 6 * 3600  # a start missed by less than this is made up for once
LOOK_SECONDS = 10  # between looks for runs that another process queued
BUSY = 4  # exit status of a child that found another one at work


class Nights:
    """One child at a time; one that dies in the middle is started again and resumes, a bounded number of times.

    Where several processes share a Qdrant server, those without a schedule only queue runs, for one that has it.
    """

    def __init__(self, runs: Runs, settings: Settings) -> None:
        self._runs = runs
        self._settings = settings
        self._shared = settings.qdrant.url is not None
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._watcher: threading.Thread | None = None
        self._closing = False
        self._scheduler: BackgroundScheduler | None = None

    def open(self) -> None:
        """Resumes what was interrupted and begins to follow the schedule."""
        self._closing = False
        if self._runs.unfinished() is not None:
            self._watch()
        schedule = self._settings.schedule
        if schedule.enabled:
            self._scheduler = BackgroundScheduler(timezone=schedule.timezone)
            trigger = cron_trigger(schedule.cron, schedule.timezone)
            self._scheduler.add_job(
                self._on_schedule, trigger, coalesce=True, max_instances=1, misfire_grace_time=GRACE_SECONDS
            )
            if self._shared:
                self._scheduler.add_job(
                    self._look, "interval", seconds=LOOK_SECONDS, coalesce=True, misfire_grace_time=None
                )
            self._scheduler.start()

    def start(self, requested_by: str) -> Run:
        """Raises Conflict while a run is active; one that was interrupted goes on."""
        try:
            return self._runs.queue(requested_by)
        finally:
            self._watch()

    def close(self) -> None:
        """Ends the child; its run goes on where it was at the next start."""
        with self._lock:
            self._closing = True
            child, watcher = self._child, self._watcher
        scheduler, self._scheduler = self._scheduler, None
        if scheduler is not None:
            scheduler.shutdown(wait=False)
        if child is not None:
            child.terminate()
        if watcher is not None:
            watcher.join()

    def _on_schedule(self) -> None:
        try:
            self.start("schedule")
        except Conflict as error:
            log.info("no nightly run was started: %s", error)

    def _look(self) -> None:
        """Begins what another process queued; what is interrupted there goes on at the next start of any."""
        run = self._runs.unfinished()
        if run is not None and run.state == "queued":
            self._watch()

    def _watch(self) -> None:
        if self._shared and not self._settings.schedule.enabled:
            return
        with self._lock:
            alive = self._watcher is not None and self._watcher.is_alive()
            if not alive and not self._closing:
                self._watcher = threading.Thread(target=self._run_unfinished, name="nights", daemon=True)
                self._watcher.start()

    def _run_unfinished(self) -> None:
        """Starts a child for every run that is not finished, as long as one makes progress."""
        while (run := self._next()) is not None:
            assert self._child is not None
            code = self._child.wait()
            again = self._runs.get(run.id)
            if code != 0 and again.attempts == run.attempts:
                if code == BUSY:
                    log.info("the nightly run %s is another process's", run.id)
                else:
                    log.error("the nightly run %s cannot be started (exit status %d)", run.id, code)
                with self._lock:
                    self._watcher = None
                return

    def _next(self) -> Run | None:
        """The run whose child was just started; without one the watcher ends, and a run queued later gets another."""
        with self._lock:
            run = None if self._closing else self._runs.unfinished()
            if run is None:
                self._watcher = None
            else:
                self._child = spawn(self._settings, "nights", run.id)
            return run


def main() -> int:
    from ..trainer.nightly import Busy
    from .loop import ClickLoop

    loop = ClickLoop(begin())
    show: Callable[[str, float], None] = lambda _step, _share: None  # noqa: E731
    try:
        return 0 if loop.run_night(sys.argv[1], show).outcome != "failed" else 1
    except Busy:
        return BUSY  # the process that started this one says so


if __name__ == "__main__":
    sys.exit(main())
