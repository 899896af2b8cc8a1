"""One night: from the log to a decision, and to a new live build when the candidate really won."""

import logging
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson
import polars as pl

from ..retriever.database import Database
from ..retriever.documents import Documents
from ..retriever.encoder import open_encoder, truncated
from ..retriever.errors import ClickLoopError
from ..retriever.index import IndexStore
from ..retriever.locks import Lock
from ..retriever.owner import Owner, drop_half_made
from ..retriever.releases import Releases, write_whole
from ..retriever.types import Release
from . import report
from .challenge import Challengers, Followed, preferences
from .contest import Contest, Side
from .corpus import Corpus, corpus_vectors, read_corpus
from .evaluate import Result, evidence, visibility
from .finetune import finetune
from .gate import Challenger, Decision, Sample, decide, follow, screen, stronger
from .guards import summed_up
from .lessons import Lessons, Skipped, check_enough, mine_triplets, read_lessons
from .mine import Triplet
from .promote import build_index, check_index, hand_over, mark_ready
from .recipe import Recipe
from .runs import MAX_ATTEMPTS, Run, Runs
from .screen import saving, screening_rows
from .slices import by_slice
from .snapshot import Bounds, bounds_now, cluster_of
from .split import untaught
from .steps import Progress, Steps

log = logging.getLogger(__name__)


class Busy(ClickLoopError):
    """Another nightly run is active."""


@dataclass(frozen=True, slots=True)
class Tonight:
    """What every stage after the reading works with."""

    run: Run
    steps: Steps
    lessons: Lessons
    corpus: Corpus
    champion: Side


class Night:
    """`run` does one nightly run from its row in the database; a step that is already done is not done again."""

    def __init__(
        self,
        database: Database,
        releases: Releases,
        store: IndexStore,
        make_owner: Callable[[], Owner],
        lock: Lock,
        folder: Path,
        recipe: Recipe,
    ) -> None:
        """`folder` holds a folder for every run."""
        self._database = database
        self._documents = Documents(database)
        self._runs = Runs(database)
        self._challengers = Challengers(database)
        self._releases = releases
        self._store = store
        self._make_owner = make_owner
        self._lock = lock
        self._folder = folder
        self._recipe = recipe
        self._timings: dict[str, float] = {}

    def run(self, run_id: str, show: Progress = lambda _step, _share: None) -> Run:
        """Runs or resumes, and returns the finished row: every failure ends there as a reason.

        Raises Busy when another process is in the middle of a run.
        """
        if not self._lock.acquire():
            raise Busy(f"another nightly run is active ({self._lock.holder()})")
        try:
            run = self._runs.start(run_id, bounds_now(self._database))
            self._guarded(run, show)
        finally:
            self._lock.release()
        return self._runs.get(run_id)

    def _guarded(self, run: Run, show: Progress) -> None:
        steps = Steps(self._runs, run.id, show, self._timings)
        try:
            if run.attempts > MAX_ATTEMPTS and run.outcome is None:
                raise ClickLoopError(f"interrupted {MAX_ATTEMPTS} times; given up")
            self._learn_and_judge(run, steps)
        except Skipped as reason:
            self._runs.finish(run.id, "skipped", [str(reason)])
        except Exception as error:
            log.exception("run %s failed", run.id)
            message = str(error) if isinstance(error, ClickLoopError) else f"{type(error).__name__}: {error}"
            self._runs.finish(run.id, "failed", [message])
        finally:
            steps.end()
            self._runs.detail(run.id, timings=self._timings)
            report.write(self._folder / run.id, self._runs.get(run.id))
            self._clean(run.id)

    def _learn_and_judge(self, run: Run, steps: Steps) -> None:
        """The stages of a night, in order."""
        if run.build_id is not None and self._ready(run.build_id):
            self._hand_over(run, run.build_id, steps)
            return
        work = self._folder / run.id
        work.mkdir(parents=True, exist_ok=True)
        champion_release = self._champion(run)
        drop_half_made(self._releases, self._store)  # and a store that cannot be reached ends the run before any work

        steps.begin("reading the log")
        assert run.log_seq is not None
        assert run.event_seq is not None
        bounds = Bounds(run.log_seq, run.event_seq)
        lessons = read_lessons(self._database, bounds, champion_release, self._recipe)
        self._runs.detail(run.id, mining=lessons.counts, lineage=self._lineage(champion_release, lessons))
        followed = self._challengers.of(champion_release.id)
        if followed is not None and followed.run_id == run.id:
            followed = None  # made by this run before it was interrupted: it is heard from the next night on
        if followed is None:
            check_enough(len(lessons.training), self._recipe)

        steps.begin("embedding documents with the champion")
        corpus = read_corpus(self._documents)
        champion = self._side(corpus, champion_release, steps, keep=False)
        tonight = Tonight(run, steps, lessons, corpus, champion)
        if followed is not None:
            steps.begin("judging the challenger")
            if self._challenger_wins(tonight, followed):
                return
        check_enough(len(lessons.training), self._recipe)

        steps.begin("mining hard negatives")
        lesson_triplets = mine_triplets(lessons, corpus, champion, self._recipe)

        steps.begin("fine-tuning")
        candidate_release = self._train(run, champion_release, *lesson_triplets, work, steps.progress)

        steps.begin("screening")
        refused = self._screen(tonight, candidate_release)
        if refused is not None:
            self._runs.finish(run.id, refused.outcome, list(refused.reasons))
            return

        steps.begin("embedding documents with the candidate")
        candidate = self._side(corpus, candidate_release, steps, keep=True)

        steps.begin("judging")
        decision, holdout = self._judge(tonight, candidate)
        if decision.outcome == "promoted":
            steps.begin("building the new index")
            self._hand_over(run, self._build(tonight, candidate, holdout), steps)
            return
        if decision.outcome == "not_enough_evidence" and decision.look:
            self._challenge(tonight, decision, candidate, holdout)
        self._runs.finish(run.id, decision.outcome, list(decision.reasons))

    def _screen(self, tonight: Tonight, release: Release) -> Decision | None:
        """Why the candidate is not worth a look: on the development split, ranking few of the documents."""
        lessons, corpus = tonight.lessons, tonight.corpus
        part = lessons.parts.development
        queries = [lessons.wordings[query] for query in part["query"].unique().sort()]
        rows = screening_rows(corpus, tonight.champion, part, queries, self._recipe.seed)
        some, began = corpus.part(rows), time.monotonic()
        candidate = self._side(some, release, tonight.steps, keep=True)
        seconds = time.monotonic() - began
        results = Contest(some, tonight.champion.part(rows), candidate).results(part, lessons.clicks, lessons.wordings)
        refused = screen(_sample(results))
        spent = saving(len(rows), len(corpus.keys), seconds, passed=refused is None)
        self._runs.detail(tonight.run.id, screen=spent)
        if refused is not None:
            self._decided(tonight, release, refused)
            self._saw(tonight.run, refused, results)
        return refused

    def _judge(self, tonight: Tonight, candidate: Side) -> tuple[Decision, list[Result]]:
        """The decision and the results on the holdout."""
        run, lessons = tonight.run, tonight.lessons
        contest = Contest(tonight.corpus, tonight.champion, candidate)
        holdout = contest.results(lessons.parts.holdout, lessons.clicks, lessons.wordings)
        searched = lessons.parts.holdout.filter(pl.col("release") == lessons.champion)
        slices = by_slice(holdout, searched, {cluster_of(pair.query) for pair in lessons.training})
        self._runs.detail(run.id, slices=report.slices_json(slices), visibility=visibility(holdout))
        looks, dials = self._runs.looks_before(run.id), self._recipe.promotion
        decision = self._with_guards(tonight, contest, decide(_sample(holdout), looks, dials))
        self._decided(tonight, candidate.release, decision)
        self._saw(run, decision, holdout)
        return decision, holdout

    def _side(self, corpus: Corpus, release: Release, steps: Steps, *, keep: bool) -> Side:
        vectors = corpus_vectors(corpus, release, self._releases, steps.progress, keep=keep)
        return Side(release, vectors, open_encoder(self._releases.folder(release.id), release))

    def _decided(self, tonight: Tonight, candidate: Release, decision: Decision, *, first: bool = True) -> None:
        lessons = tonight.lessons
        golden = None if lessons.golden is None else lessons.golden.sha256
        inputs = {"champion": lessons.champion, "candidate": candidate.id, "data_sha256": lessons.data_sha256}
        self._runs.decided(tonight.run.id, decision, first=first, **inputs, golden_sha256=golden)

    def _saw(self, run: Run, decision: Decision, results: Sequence[Result]) -> None:
        """What the decision was about, for the report."""
        self._runs.detail(run.id, metrics=report.metrics_json(results, decision))
        report.write_evidence(self._folder / run.id, results, decision)

    def _champion(self, run: Run) -> Release:
        """What was live when the run began, also after a crash."""
        known = run.details.get("lineage", {}).get("champion")
        if known is not None and self._releases.whole(known):
            return self._releases.get(known)
        live = self._releases.live()
        if live is None:
            raise Skipped("no build is live yet: add documents and let people search first")
        return self._releases.get(live.release_id)

    def _train(
        self,
        run: Run,
        champion: Release,
        training: list[Triplet],
        development: list[Triplet],
        work: Path,
        progress: Callable[[float], None],
    ) -> Release:
        """The candidate, exported and recorded before anybody judges it."""
        release_id = run.id.replace("run-", "release-", 1)
        if self._releases.whole(release_id):
            return self._releases.get(release_id)
        model, curve = finetune(
            self._releases.folder(champion.id) / "model",
            training,
            development,
            work / "checkpoints",
            self._recipe.training,
            prompts={"query": champion.query_prompt, "document": champion.document_prompt},
            seed=self._recipe.seed,
            progress=progress,
        )
        write_whole(work / "curve.json", orjson.dumps(curve))
        lineage = {"run": run.id, "triplets": len(training), "log_seq": run.log_seq, "event_seq": run.event_seq}
        release = self._releases.make(model, parent=champion.id, lineage=lineage, release_id=release_id)
        shutil.rmtree(work / "checkpoints", ignore_errors=True)
        return release

    def _challenger_wins(self, tonight: Tonight, followed: Followed) -> bool:
        """One more night of the challenger. Its promotion ends the night: a new candidate would be compared with a
        champion that is none any more.
        """
        run, steps = tonight.run, tonight.steps
        release = self._releases.get(followed.release_id)
        keep = followed.build_id is None  # otherwise the owner of the index stores the vectors of new documents
        challenger = self._side(tonight.corpus, release, steps, keep=keep)
        contest = Contest(tonight.corpus, tonight.champion, challenger)
        results: list[Result] = []
        if followed.judged_by != run.id:
            followed, results = self._hear(tonight, followed, release, contest)
        decision = self._with_guards(tonight, contest, follow(followed.state, self._recipe.promotion))
        self._runs.detail(run.id, challenger=report.challenger_json(followed, decision))
        self._decided(tonight, release, decision, first=False)
        if decision.outcome == "rejected":
            self._challengers.drop()
        if decision.outcome != "promoted":
            return False
        if results:
            self._saw(run, replace(decision, sample=followed.state.queries), results)
        build_id = followed.build_id or self._build(tonight, challenger, results)
        self._hand_over(run, build_id, steps)
        return True

    def _with_guards(self, tonight: Tonight, contest: Contest, decision: Decision) -> Decision:
        """The decision, turned where it promotes a model that breaks a guard."""
        run, lessons = tonight.run, tonight.lessons
        golden = None if lessons.golden is None else contest.golden(lessons.golden)
        if golden is not None:
            self._runs.detail(run.id, golden=report.golden_json(golden, contest.candidate_id))
        if decision.outcome != "promoted":
            return decision
        found = contest.guards(self._recipe.guards, lessons.wordings.values(), golden)
        asked = {guard.name: guard.as_json() | {"release": contest.candidate_id} for guard in found}
        self._runs.detail(run.id, guards=asked)
        broken = [guard.says() for guard in found if not guard.holds]
        if broken:
            return replace(decision, outcome="rejected", reasons=(*decision.reasons, *broken))
        return replace(decision, reasons=(*decision.reasons, summed_up(found)))

    def _hear(
        self, tonight: Tonight, followed: Followed, release: Release, contest: Contest
    ) -> tuple[Followed, list[Result]]:
        """What arrived since the challenger's last night, of queries and people that did not count before."""
        run, lessons = tonight.run, tonight.lessons
        assert run.log_seq is not None
        later = pl.col("search") > followed.log_seq
        heard = untaught(lessons.log, release.lineage["log_seq"], self._recipe.split).filter(later)
        results = contest.results(heard, lessons.clicks, lessons.wordings)
        liked = preferences(lessons.log.filter(later), followed.release_id)
        units = {_query(result) for result in results} | {_person(person) for person in liked}
        fresh = self._challengers.fresh(followed.run_id, units)
        results = [result for result in results if _query(result) in fresh]
        people = Sample.of([value for person, value in liked.items() if _person(person) in fresh])
        before = followed.state
        state = Challenger(before.k, before.nights + 1, before.queries + _sample(results), before.people + people)
        now = replace(followed, judged_by=run.id, log_seq=run.log_seq, state=state)
        self._challengers.keep(now, lessons.champion, fresh)
        return now, results

    def _challenge(self, tonight: Tonight, decision: Decision, candidate: Side, holdout: list[Result]) -> None:
        """Keeps a candidate that is short of evidence as the challenger, if it is stronger than the present one."""
        run, champion = tonight.run, tonight.lessons.champion
        assert run.log_seq is not None
        present = self._challengers.of(champion)
        if not stronger(decision.sample, None if present is None else present.state):
            return
        build_id = None
        if self._recipe.promotion.evaluation_traffic:
            tonight.steps.begin("building the challenger's index")
            build_id = self._build(tonight, candidate, holdout)
        state = Challenger(decision.look, 1, decision.sample)
        followed = Followed(run.id, candidate.release.id, build_id, run.id, run.log_seq, state)
        self._challengers.keep(followed, champion, {_query(result) for result in holdout})

    def _build(self, tonight: Tonight, candidate: Side, results: Sequence[Result]) -> str:
        """A new index from the judged vectors, checked; returns its build. What a crash left half made is redone."""
        run, corpus, steps = tonight.run, tonight.corpus, tonight.steps
        build_id = run.id.replace("run-", "build-", 1)
        if self._ready(build_id):
            return build_id
        live = self._releases.live()
        assert live is not None
        self._store.check_room(len(corpus.keys), candidate.release.dimension, like=live.id)
        self._releases.add_build(candidate.release.id, build_id)
        try:
            index = build_index(self._store, build_id, candidate.release, corpus, candidate.vectors, steps.progress)
            try:
                steps.begin("checking the new index")
                probes = candidate.queries([result.query for result in results])
                least = self._recipe.promotion.min_recall
                checks: dict[str, float] = check_index(index, corpus, candidate.vectors, probes, least)
            finally:
                index.close()
        except Exception:
            self._store.drop(build_id)
            self._releases.forget_build(build_id)
            raise
        folder = self._releases.folder(candidate.release.id)
        cut = truncated(folder, candidate.release, [stored.document for stored in corpus.documents])
        self._runs.detail(run.id, build={**checks, "documents": len(corpus.keys), "truncated": cut})
        mark_ready(self._database, build_id, corpus.revision)
        return build_id

    def _hand_over(self, run: Run, build_id: str, steps: Steps) -> None:
        """To the owner, or first to an admin who has to approve. From here on a resumed run only waits for the switch:
        `build_id` is what the gate let through, never the build of a candidate short of evidence.
        """
        self._runs.update(run.id, build_id=build_id)
        reasons = self._runs.get(run.id).reasons
        release_id = self._releases.build(build_id).release_id
        if self._recipe.promotion.mode == "approve":
            self._challengers.leave(release_id)
            self._runs.wait_for_approval(run.id)
            return
        steps.begin("handing over")
        refused = hand_over(self._releases, run.id, build_id, self._make_owner)
        if refused is None:
            self._runs.supersede(run.id)
            self._runs.finish(run.id, "promoted", reasons)
        else:
            if self._challengers.any() == release_id:
                self._challengers.drop()  # otherwise it would win, and be refused, every night
            self._runs.finish(run.id, "rejected", [*reasons, f"the switch was refused: {refused}"])

    def _ready(self, build_id: str) -> bool:
        return any(build.id == build_id for state in ("ready", "retired") for build in self._releases.builds(state))

    def _lineage(self, champion: Release, lessons: Lessons) -> dict[str, Any]:
        return {
            "champion": champion.id,
            "data_sha256": lessons.data_sha256,
            "recipe": self._recipe.model_dump(mode="json"),
            "packages": report.packages(),
        }

    def _clean(self, run_id: str) -> None:
        """A candidate that nobody serves or follows leaves only its report."""
        self._runs.reject_orphans()
        followed = self._challengers.any()
        for release in self._releases.list():
            if release.id != followed:
                self._releases.drop_unused(release.id)
        shutil.rmtree(self._folder / run_id / "checkpoints", ignore_errors=True)


def _sample(results: Sequence[Result]) -> Sample:
    return Sample.of(evidence(results))


def _query(result: Result) -> str:
    return f"query {result.cluster}"


def _person(person: str) -> str:
    return f"person {person}"
