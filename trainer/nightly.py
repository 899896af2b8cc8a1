"""One night: from the log to a decision, and to a new live build when the candidate really won."""

import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..retriever.database import Database
from ..retriever.documents import Documents
from ..retriever.errors import ClickLoopError, ModelError
from ..retriever.index import IndexStore
from ..retriever.locks import Lock
from ..retriever.owner import Owner
from ..retriever.releases import Releases, drop_half_made
from ..retriever.types import Release
from . import report
from .challenge import Challengers, Followed
from .contest import Side
from .corpus import read_corpus
from .gate import Challenger, Decision, stronger, unheard
from .guards import broken, forgetful
from .history import History
from .judge import Candidate, Judge, Tonight, query_units
from .lessons import Lessons, Skipped, read_lessons
from .promote import Promoter
from .recipe import Recipe
from .runs import MAX_ATTEMPTS, Bounds, Run, Runs, decision_of
from .sample import Sample
from .snapshot import bounds_now
from .steps import Progress, Steps
from .teach import Teacher, Watcher
from .within import Filters

log = logging.getLogger(__name__)


NEXT = "next"  # part of the details of a promoting run, about the next challenger
CHECKED = 300  # queries that check an index
DRAWN_BACK = (0.7, 0.5)  # shares of the way from the first weights to the trained ones, tried where a guard is broken


class Busy(ClickLoopError):
    """Another nightly run is active."""


class Night:
    """`run` does one nightly run from its row in the database; a step that is already done is not done again."""

    def __init__(
        self,
        database: Database,
        releases: Releases,
        store: IndexStore,
        make_owner: Callable[[], Owner],
        lock: Lock,
        history: History,
        folder: Path,
        recipe: Recipe,
        watch: Watcher = lambda _tonight, _candidate: None,
    ) -> None:
        """`folder` holds a folder for every run. `watch` is shown every candidate before it is judged."""
        self._database = database
        self._documents = Documents(database)
        self._runs = Runs(database)
        self._challengers = Challengers(database)
        self._releases = releases
        self._store = store
        self._lock = lock
        self._history = history
        self._folder = folder
        self._recipe = recipe
        self._teacher = Teacher(releases, folder, recipe, watch)
        self._judge = Judge(self._runs, self._challengers, releases, history, folder, recipe)
        self._promoter = Promoter(database, releases, store, make_owner, recipe.promotion)
        self._timings: dict[str, float] = {}

    def run(self, run_id: str, show: Progress = lambda _step, _share: None) -> Run:
        """Runs or resumes, and returns the finished row: every failure ends there as a reason.

        Raises Busy when another process is in the middle of a run, or may be since the lock was lost.
        """
        if not self._lock.acquire():
            raise Busy(f"another nightly run is active ({self._lock.holder()})")
        try:
            run = self._runs.start(run_id, bounds_now(self._database))
            if run.state == "running":  # otherwise another process ended it before this one had the lock
                self._guarded(run, show)
        finally:
            self._lock.release()
        return self._runs.get(run_id)

    def _guarded(self, run: Run, show: Progress) -> None:
        def check() -> None:
            if not self._lock.held():  # PostgreSQL's goes with its session
                raise Busy(f"run {run.id} lost its lock and may go on in another process")

        steps = Steps(self._runs, run.id, show, self._timings, check)
        try:
            if run.attempts > MAX_ATTEMPTS and run.outcome is None:
                raise ClickLoopError(f"interrupted {MAX_ATTEMPTS} times; given up")
            self._learn_and_judge(run, steps)
        except Busy:
            raise
        except Skipped as reason:
            check()
            self._runs.finish(run.id, reason.outcome, [str(reason)])
        except Exception as error:
            check()
            expected = isinstance(error, ClickLoopError)
            message = str(error) if expected else f"{type(error).__name__}: {error}"
            log.error("run %s failed: %s", run.id, message, exc_info=not expected)
            self._runs.finish(run.id, "failed", [message])
        finally:
            if self._lock.held():  # otherwise whoever has it goes on with this run and its files
                steps.end()
                self._runs.detail(run.id, timings=self._timings)
                report.write(self._folder / run.id, self._runs.get(run.id))
                self._clean(run.id)

    def _learn_and_judge(self, run: Run, steps: Steps) -> None:
        """The stages of a night, in order."""
        if run.build_id is not None and self._promoter.ready(run.build_id):
            self._hand_over(run, steps, run.build_id)
            return
        (self._folder / run.id).mkdir(parents=True, exist_ok=True)
        champion_release = self._champion(run)
        drop_half_made(self._releases, self._store)  # and a store that cannot be reached ends the run before any work

        steps.begin("reading the log")
        assert run.log_seq is not None
        assert run.event_seq is not None
        bounds = Bounds(run.log_seq, run.event_seq)
        lessons = read_lessons(self._history, bounds, champion_release, self._recipe, steps.progress)
        self._runs.detail(run.id, mining=lessons.counts, lineage=self._lineage(champion_release, lessons))
        followed = self._challengers.of(champion_release.id)
        if followed is not None and followed.run_id == run.id:
            followed = None  # made by this run before it was interrupted: it is heard from the next night on
        if followed is None:
            lessons.check_pairs(self._recipe)

        steps.begin("embedding documents with the champion")
        corpus = read_corpus(self._documents)
        champion = self._judge.side(corpus, champion_release, steps, keep=False)
        filters = Filters(corpus, self._folder / run.id, self._store.payload_indexes, steps.progress)
        tonight = Tonight(run, steps, lessons, corpus, champion, filters)
        if (decided := run.details.get("decided")) is not None:
            # By an attempt that was interrupted. It stands: another look would need a level of its own.
            steps.begin("embedding documents with the candidate")
            candidate = self._judge.side(corpus, self._releases.get(decided["candidate"]), steps, keep=True)
            self._act(tonight, decision_of(decided), candidate)
            return
        if followed is not None:
            steps.begin("judging the challenger")
            if self._challenger_wins(tonight, followed):
                return
        lessons.check_pairs(self._recipe)
        lessons.check_judges(self._recipe)
        release = self._teacher.teach(tonight)

        steps.begin("screening")
        decision = self._judge.screen(tonight, release)
        if decision is not None and not decision.open:
            self._runs.finish(run.id, decision.outcome, list(decision.reasons))
            return

        chosen = self._candidate(tonight, release)

        steps.begin("judging")
        if decision is None:
            decision = self._judge.judge(tonight, chosen)
        else:
            decision = self._judge.may_be_followed(tonight, chosen, decision)
        self._act(tonight, decision, chosen.side)

    def _champion(self, run: Run) -> Release:
        """What was live when the run began, also after a crash."""
        known = run.details.get("lineage", {}).get("champion")
        if known is not None and ("decided" in run.details or self._releases.whole(known)):
            return self._releases.get(known)
        live = self._releases.live()
        if live is None:
            raise Skipped("no build is live yet: add documents and let people search first")
        return self._releases.get(live.release_id)

    def _lineage(self, champion: Release, lessons: Lessons) -> dict[str, Any]:
        return {
            "champion": champion.id,
            "data_sha256": lessons.data_sha256,
            "recipe": self._recipe.model_dump(mode="json"),
            "packages": report.packages(),
        }

    def _challenger_wins(self, tonight: Tonight, followed: Followed) -> bool:
        """One more night of the challenger. With its promotion the night is over, but for the next challenger: all that
        was judged so far was the former champion's.
        """
        run, steps, corpus = tonight.run, tonight.steps, tonight.corpus
        keep = followed.build_id is None  # otherwise the owner of the index stores the vectors of new documents
        try:
            challenger = self._judge.side(corpus, self._releases.get(followed.release_id), steps, keep=keep)
        except ModelError:  # which would fail every later night too
            log.warning("the challenger %s cannot be judged and is given up", followed.release_id, exc_info=True)
            self._challengers.drop()
            return False
        decision = self._judge.hear(tonight, followed, challenger)
        if decision is not None and decision.outcome == "rejected":
            self._challengers.drop()
        if decision is None or decision.outcome != "promoted":
            return False
        build_id = followed.build_id or self._promoter.build(run, steps, corpus, challenger, _asked(tonight))
        if self._promoter.hand_over(run, steps, build_id):
            reasons = list(decision.reasons)
            if followed.build_id is not None and self._recipe.promotion.evaluation_traffic:
                reasons += self._next(tonight, challenger, decision.reasons)
            self._runs.finish(run.id, "promoted", reasons)
        return True

    def _next(self, tonight: Tonight, champion: Side, reasons: tuple[str, ...]) -> list[str]:
        """What the log of tonight teaches the model that was just promoted is followed at once: people judge it from
        tomorrow on, and a promotion costs no night. Returns what became of it, to add to the `reasons` of the
        promotion, which stands whatever goes wrong here, also a kill: then the next night has to find a challenger.
        """
        run, lessons = tonight.run, replace(tonight.lessons, champion=champion.release.id)
        after = replace(tonight, lessons=lessons, champion=champion)
        try:
            new = len(lessons.training) - champion.release.lineage["pairs"]
            if new < self._recipe.mining.min_pairs:
                raise Skipped(f"{max(new, 0)} training pairs more than it was taught")
            candidate = self._candidate(after, self._teacher.teach(after), NEXT)
            decision = unheard((*reasons, "a next candidate was trained from it"), self._runs.looks_before(run.id))
            decision = self._judge.may_be_followed(after, candidate, decision)
            followed_now = self._challenge(after, decision, candidate.side, NEXT) if decision.open else []
            return [*decision.reasons[len(reasons) :], *followed_now]
        except Skipped as reason:
            return [f"nothing new is followed: {reason}"]
        except Exception as error:
            log.exception("run %s: no new challenger", run.id)
            return [f"nothing new is followed: {error}"]

    def _candidate(self, tonight: Tonight, release: Release, part: str | None = None) -> Candidate:
        """With its vectors of all documents and what the guards say. One that breaks a guard is drawn back towards the
        weights that training started with, which mends what was forgotten and keeps most of what was learned. Guards
        need no clicks, so asking them again spends no evidence.
        """
        steps, run, trained, said = tonight.steps, tonight.run, release, list[str]()
        shares: tuple[float | None, ...] = (*DRAWN_BACK, None)
        chosen = run.details.get("chosen")
        if chosen and self._releases.whole(chosen["release"]):  # before an interruption: the same is judged now
            release, said, shares = self._releases.get(chosen["release"]), list(chosen["drawn_back"]), (None,)
        for share in shares:
            steps.begin("embedding documents with the candidate")
            side = self._judge.side(tonight.corpus, release, steps, keep=True)
            steps.begin("asking the guards")
            found = self._judge.guards(tonight, side, part)
            if share is None or not forgetful(found):
                break
            said += [*broken(found), f"the candidate is drawn back to {share:.0%} of what it learned"]
            steps.begin(f"drawing back to {share:.0%}")
            release = self._teacher.draw_back(tonight, trained, share)
        self._runs.detail(run.id, chosen={"release": release.id, "drawn_back": said})
        return Candidate(side, found, tuple(said))

    def _act(self, tonight: Tonight, decision: Decision, candidate: Side) -> None:
        """What won goes live; what is short of evidence may be followed. With this the night is over."""
        run, steps = tonight.run, tonight.steps
        if decision.outcome == "promoted":
            steps.begin("building the new index")
            self._hand_over(run, steps, self._promoter.build(run, steps, tonight.corpus, candidate, _asked(tonight)))
            return
        followed_now = self._challenge(tonight, decision, candidate) if decision.open else []
        self._runs.finish(run.id, decision.outcome, [*decision.reasons, *followed_now])

    def _challenge(self, tonight: Tonight, decision: Decision, candidate: Side, part: str | None = None) -> list[str]:
        """Keeps a candidate that is short of evidence as the challenger, if it is stronger than the present one, and
        says so. `part` of the run's details is about it.
        """
        run, champion = tonight.run, tonight.lessons.champion
        assert run.log_seq is not None
        present = self._challengers.of(champion)
        if not stronger(decision.sample, None if present is None else present.state):
            return []
        build_id = None
        if self._recipe.promotion.evaluation_traffic:
            tonight.steps.begin("building the challenger's index")
            build_id = self._promoter.build(run, tonight.steps, tonight.corpus, candidate, _asked(tonight), part)
        assert isinstance(decision.sample, Sample)  # of queries: nobody has voted yet
        state = Challenger(decision.look, 1, decision.sample, looked=self._runs.looked(run.id))
        followed = Followed(run.id, candidate.release.id, build_id, run.id, run.log_seq, state)
        counted = query_units(tonight.lessons.holdout["cluster"]) if decision.sample.n else set()
        self._challengers.keep(followed, champion, counted)
        return ["it is followed from now on" if build_id is None else "people are shown its results from now on"]

    def _hand_over(self, run: Run, steps: Steps, build_id: str) -> None:
        if self._promoter.hand_over(run, steps, build_id):
            self._runs.finish(run.id, "promoted", self._runs.get(run.id).reasons)

    def _clean(self, run_id: str) -> None:
        """A candidate that nobody serves or follows leaves only its report."""
        self._runs.reject_orphans()
        followed = self._challengers.any()
        for release in self._releases.list():
            if release.id != followed:
                self._releases.drop_unused(release.id)
        for path in (self._folder / run_id).iterdir():
            if path.is_dir():  # checkpoints, and what a killed attempt left
                shutil.rmtree(path, ignore_errors=True)


def _asked(tonight: Tonight) -> list[str]:
    """Queries of people, to check an index with."""
    return list(tonight.lessons.wordings.values())[:CHECKED]
