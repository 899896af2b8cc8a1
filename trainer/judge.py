"""What the log says about a candidate and about the challenger, and what the gate makes of it."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from ..retriever.releases import Releases
from ..retriever.types import Release
from . import report
from .challenge import Challengers, Followed
from .contest import Contest, Side
from .corpus import Corpus, corpus_vectors
from .evaluate import Result, evidence, sample_of, units, visibility
from .gate import Decision, ask_people, decide, follow, screen, unlooked
from .guards import Guarded, broken, summed_up
from .history import History
from .lessons import Lessons
from .preferences import drafted, preferences
from .recipe import Recipe, Split
from .runs import Run, Runs
from .screen import saving, screening_rows
from .slices import by_slice
from .snapshot import cluster_of, commonest, wordings_of
from .split import untaught
from .steps import Steps
from .tally import tally
from .within import Filters


@dataclass(frozen=True, slots=True)
class Tonight:
    """What every stage after the reading works with."""

    run: Run
    steps: Steps
    lessons: Lessons
    corpus: Corpus
    champion: Side
    filters: Filters


@dataclass(frozen=True, slots=True)
class Candidate:
    """What the guards say about it, and what was said of it before it was drawn back."""

    side: Side
    guards: Sequence[Guarded]
    drawn_back: tuple[str, ...] = ()


class Judge:
    """Every decision is written down with what it was about, before anybody acts on it."""

    def __init__(
        self,
        runs: Runs,
        challengers: Challengers,
        releases: Releases,
        history: History,
        folder: Path,
        recipe: Recipe,
    ) -> None:
        """`folder` holds a folder for every run."""
        self._runs = runs
        self._challengers = challengers
        self._releases = releases
        self._history = history
        self._folder = folder
        self._recipe = recipe

    def screen(self, tonight: Tonight, release: Release) -> Decision | None:
        """Why the candidate is not worth a look, or None, by the results on the development split, of few documents."""
        lessons, corpus = tonight.lessons, tonight.corpus
        part = lessons.screened
        filters = tonight.filters
        rows = screening_rows(corpus, tonight.champion, part, lessons.wordings, filters, self._recipe.seed)
        some, began = corpus.part(rows), time.monotonic()
        candidate = self.side(some, release, tonight.steps, keep=True)
        seconds = time.monotonic() - began
        contest = Contest(some, tonight.champion.part(rows), candidate, filters)
        results = contest.results(part, lessons.clicks, lessons.wordings)
        found = evidence(results)
        refused = screen(found)
        passed = refused is None
        if refused is not None and self._people_can_tell(tonight):
            refused = ask_people(refused, self._runs.looks_before(tonight.run.id))
        ranks_all = refused is None or refused.open
        spent = saving(len(rows), len(corpus.keys), seconds, passed=passed, ranks_all=ranks_all)
        self._runs.detail(tonight.run.id, screen=spent)
        if refused is not None:
            self._saw(tonight.run, release, replace(refused, sample=found), results)
            if not refused.open:  # otherwise the guards are asked first
                self._decided(tonight, release, refused)
        return refused

    def guards(self, tonight: Tonight, candidate: Side, part: str | None = None) -> list[Guarded]:
        """All guards, also written to `part` of the run's details."""
        run, lessons = tonight.run, tonight.lessons
        contest = Contest(tonight.corpus, tonight.champion, candidate, tonight.filters)
        golden = None if lessons.golden is None else contest.golden(lessons.golden)
        if golden is not None:
            self._runs.detail(run.id, part, golden=report.golden_json(golden, candidate.release.id))
        found = contest.guards(self._recipe.guards, lessons.wordings.values(), golden)
        asked = {guard.name: guard.as_json() | {"release": candidate.release.id} for guard in found}
        self._runs.detail(run.id, part, guards=asked)
        return found

    def judge(self, tonight: Tonight, candidate: Candidate) -> Decision:
        """By the results on the holdout. A candidate that breaks a guard spends no look there."""
        run, lessons = tonight.run, tonight.lessons
        contest = Contest(tonight.corpus, tonight.champion, candidate.side, tonight.filters)
        holdout = contest.results(lessons.holdout, lessons.clicks, lessons.wordings)
        slices = by_slice(holdout, lessons.holdout, {cluster_of(pair.query) for pair in lessons.training})
        self._runs.detail(run.id, slices=report.slices_json(slices), visibility=visibility(holdout))
        found = evidence(holdout)
        if broken(candidate.guards):
            decision = unlooked(found)
        else:
            decision = decide(found, self._runs.looks_before(run.id), self._recipe.promotion)
        decision = _turned(decision, candidate)
        self._saw(run, candidate.side.release, decision, holdout)  # first: what is decided stands
        self._decided(tonight, candidate.side.release, decision)
        return decision

    def may_be_followed(self, tonight: Tonight, candidate: Candidate, decision: Decision) -> Decision:
        """The decision that is open, turned where the candidate breaks a guard."""
        decision = _turned(decision, candidate)
        self._decided(tonight, candidate.side.release, decision)
        return decision

    def hear(self, tonight: Tonight, followed: Followed, challenger: Side) -> Decision | None:
        """On the challenger after one more night, or None when it has ended meanwhile."""
        run = tonight.run
        contest = Contest(tonight.corpus, tonight.champion, challenger, tonight.filters)
        results: list[Result] = []
        if followed.judged_by != run.id:
            heard = self._listen(tonight, followed, challenger.release, contest)
            if heard is None:
                return None
            followed, results = heard
        decision = follow(followed.state, self._recipe.promotion)
        if "challenger" in run.details:  # said before an interruption, and it stands: guards may answer otherwise now
            said = run.details["challenger"]
            decision = replace(decision, outcome=said["outcome"], reasons=tuple(said["reasons"]))
        elif decision.outcome == "promoted":
            decision = _with_guards(decision, self.guards(tonight, challenger))
        self._runs.detail(run.id, challenger=report.challenger_json(followed, decision))
        self._decided(tonight, challenger.release, decision, first=False)
        if results and decision.outcome == "promoted":  # of all its nights the details of the challenger say more
            self._saw(run, challenger.release, replace(decision, sample=evidence(results)), results, fresh=True)
        return decision

    def side(self, corpus: Corpus, release: Release, steps: Steps, *, keep: bool) -> Side:
        vectors = corpus_vectors(corpus, release, self._releases, steps.progress, keep=keep)
        return Side(release, corpus.keys, vectors, self._releases.encoder(release).query)

    def _listen(
        self, tonight: Tonight, followed: Followed, release: Release, contest: Contest
    ) -> tuple[Followed, list[Result]] | None:
        """What arrived since the challenger's last night, of queries and people that did not count before. None when it
        has ended meanwhile.
        """
        run, lessons = tonight.run, tonight.lessons
        assert run.log_seq is not None
        later = self._history.since(followed.log_seq)
        # That of its training, whatever the settings say by now: nothing that taught it may judge it.
        taught_by = Split.model_validate(release.lineage.get("split", self._recipe.split.model_dump()))
        heard = untaught(later, self._history.clusters(release.lineage["log_seq"]), taught_by)
        wordings = commonest(wordings_of(later))

        def by(part: pl.DataFrame) -> list[Result]:
            return contest.results(tally(part, by=("release", "cluster")), lessons.clicks, wordings)

        results = by(heard)
        seen = self._challengers.lists_with(followed, units(by(drafted(later, followed.release_id))))
        liked = {_person(person): vote for person, vote in preferences(later, followed.release_id).items()}
        named = query_units(result.cluster for result in results) | liked.keys()
        fresh = self._challengers.fresh(followed.run_id, named)
        results = [result for result in results if _unit(result.cluster) in fresh]
        votes = {person: vote for person, vote in liked.items() if person in fresh}
        before = followed.state
        state = replace(
            before,
            nights=before.nights + 1,
            queries=before.queries + evidence(results),
            people=self._challengers.votes_with(followed, votes.values()),
            lists=sample_of(seen.values()),
        )
        now = replace(followed, judged_by=run.id, log_seq=run.log_seq, state=state)
        return (now, results) if self._challengers.keep(now, lessons.champion, fresh, votes, seen) else None

    def _people_can_tell(self, tonight: Tonight) -> bool:
        """Whether people see challengers, and no other one is followed."""
        if not self._recipe.promotion.evaluation_traffic:
            return False
        followed = self._challengers.of(tonight.lessons.champion)
        return followed is None or followed.run_id == tonight.run.id

    def _decided(self, tonight: Tonight, candidate: Release, decision: Decision, *, first: bool = True) -> None:
        lessons = tonight.lessons
        golden = None if lessons.golden is None else lessons.golden.sha256
        inputs = {"champion": lessons.champion, "candidate": candidate.id, "data_sha256": lessons.data_sha256}
        self._runs.decided(tonight.run.id, decision, first=first, **inputs, golden_sha256=golden)

    def _saw(
        self, run: Run, release: Release, decision: Decision, results: Sequence[Result], *, fresh: bool = False
    ) -> None:
        """What the decision was about, for the report; `fresh` results are of tonight only, about a challenger."""
        measured = {"release": release.id, "fresh": fresh}
        self._runs.detail(run.id, metrics=report.metrics_json(results, decision), measured=measured)
        report.write_evidence(self._folder / run.id, results, decision)


def _turned(decision: Decision, candidate: Candidate) -> Decision:
    """The same with what became of the candidate before, turned where it breaks a guard."""
    return _with_guards(replace(decision, reasons=(*decision.reasons, *candidate.drawn_back)), candidate.guards)


def _with_guards(decision: Decision, found: Sequence[Guarded]) -> Decision:
    """The decision, turned where a guard is broken."""
    if reasons := broken(found):
        return replace(decision, outcome="rejected", reasons=(*decision.reasons, *reasons))
    return replace(decision, reasons=(*decision.reasons, summed_up(found)))


def query_units(clusters: Iterable[str]) -> set[str]:
    """What counts once as evidence about a challenger."""
    return {_unit(cluster) for cluster in clusters}


def _unit(cluster: str) -> str:
    return f"query {cluster}"


def _person(person: str) -> str:
    return f"person {person}"
