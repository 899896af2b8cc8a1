"""One night: from the log to a decision, and to a new live build when the candidate really won."""

import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson
import polars as pl

from ..retriever.database import Database
from ..retriever.documents import Documents
from ..retriever.encoder import open_encoder, render, truncated
from ..retriever.errors import ClickLoopError
from ..retriever.index import IndexStore
from ..retriever.locks import Lock
from ..retriever.owner import Owner
from ..retriever.releases import Releases, write_whole
from ..retriever.shadow import ShadowIndex
from ..retriever.types import Release, Vectors
from . import report
from .clicks import ClickModel, corrected_gains, count_people, fit, judge
from .corpus import Corpus, corpus_vectors, read_corpus
from .evaluate import Result, compare, evidence, judged_queries, summary
from .finetune import finetune
from .gate import Decision, decide
from .mine import Pair, StoredVectors, Triplet, positives, triplets
from .promote import build_index, check_index, hand_over, mark_ready, query_vectors
from .recipe import Recipe
from .runs import MAX_ATTEMPTS, Run, Runs
from .snapshot import Bounds, bounds_now, ever_clicked, fingerprint, first_clusters, read_log, without_robots, wordings
from .split import Parts, split

log = logging.getLogger(__name__)
Progress = Callable[[str, float], None]


class Busy(ClickLoopError):
    """Another nightly run is active."""


class Skipped(Exception):
    """There is not enough to learn from; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Lessons:
    """What the log teaches: judgments of learners and of judges, and the pairs to train on."""

    parts: Parts
    clicks: ClickModel
    training: list[Pair]
    development: list[Pair]
    clicked: dict[str, set[str]]
    wordings: dict[str, str]
    counts: dict[str, Any]
    data_sha256: str


@dataclass(frozen=True, slots=True)
class Side:
    """A release with its vectors of the corpus."""

    release: Release
    vectors: Vectors


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
            if run.attempts > MAX_ATTEMPTS:
                self._runs.finish(run_id, "failed", [f"interrupted {MAX_ATTEMPTS} times; given up"])
            else:
                self._guarded(run, show)
        finally:
            self._lock.release()
        return self._runs.get(run_id)

    def _guarded(self, run: Run, show: Progress) -> None:
        try:
            self._learn_and_judge(run, _Steps(self._runs, run.id, show, self._timings))
        except Skipped as reason:
            self._runs.finish(run.id, "skipped", [str(reason)])
        except Exception as error:
            log.exception("run %s failed", run.id)
            message = str(error) if isinstance(error, ClickLoopError) else f"{type(error).__name__}: {error}"
            self._runs.finish(run.id, "failed", [message])
        finally:
            self._runs.detail(run.id, timings=self._timings)
            report.write(self._folder / run.id, self._runs.get(run.id))
            self._clean(run.id)

    def _learn_and_judge(self, run: Run, steps: "_Steps") -> None:
        """The stages of a night, in order."""
        if run.build_id is not None and self._ready(run.build_id):
            self._hand_over(run, run.build_id, steps)
            return
        work = self._folder / run.id
        work.mkdir(parents=True, exist_ok=True)
        champion_release = self._champion(run)

        steps.begin("reading the log")
        lessons = self._read(run, champion_release)
        self._runs.detail(run.id, mining=lessons.counts, lineage=self._lineage(champion_release, lessons))
        self._check_enough(len(lessons.training))

        steps.begin("embedding documents with the champion")
        corpus = read_corpus(self._documents)
        champion = Side(
            champion_release,
            corpus_vectors(corpus, champion_release, self._releases, steps.progress, keep=False),
        )
        steps.begin("mining hard negatives")
        lesson_triplets = self._mine(lessons, corpus, champion)

        steps.begin("fine-tuning")
        candidate_release = self._train(run, champion_release, *lesson_triplets, work, steps.progress)

        steps.begin("embedding documents with the candidate")
        vectors = corpus_vectors(corpus, candidate_release, self._releases, steps.progress, keep=True)
        candidate = Side(candidate_release, vectors)

        steps.begin("judging")
        holdout, development = self._judge(lessons, corpus, champion, candidate)
        decision = decide(
            evidence(holdout).values,
            evidence(development).values,
            self._runs.looks_before(run.id),
            self._recipe.promotion,
        )
        self._runs.decided(run.id, decision)
        self._runs.detail(run.id, metrics=_metrics(holdout, decision))
        report.write_evidence(work, holdout, decision)

        if decision.outcome == "promoted":
            steps.begin("building the new index")
            self._promote(run, corpus, candidate, [result.query for result in holdout], steps)
        else:
            self._runs.finish(run.id, decision.outcome, list(decision.reasons))

    def _champion(self, run: Run) -> Release:
        """What was live when the run began, also after a crash."""
        known = run.details.get("lineage", {}).get("champion")
        if known is not None and self._releases.whole(known):
            return self._releases.get(known)
        live = self._releases.live()
        if live is None:
            raise Skipped("no build is live yet: add documents and let people search first")
        return self._releases.get(live.release_id)

    def _read(self, run: Run, champion: Release) -> Lessons:
        """From the searches that the champion was not trained on; those of nights without a promotion add up."""
        assert run.log_seq is not None
        assert run.event_seq is not None
        bounds = Bounds(run.log_seq, run.event_seq)
        everything = read_log(self._database, bounds, after=champion.lineage.get("log_seq", 0))
        impressions, robots = without_robots(everything, self._recipe.mining.max_searches_per_person)
        parts = split(impressions, first_clusters(self._database, bounds), self._recipe.split)
        model = fit(count_people(impressions))
        least = self._recipe.mining.min_relevance
        training = positives(judge(count_people(parts.training), model), least)
        development = positives(judge(count_people(parts.development), model), least)
        counts = {
            "searches": impressions["search"].n_unique(),
            "clicks": int(impressions["clicked"].sum()),
            "people": impressions["person"].n_unique(),
            "people_who_teach": parts.training["person"].n_unique(),
            "people_who_judge": parts.holdout["person"].n_unique(),
            "robots_left_out": robots,
            "queries": impressions["query"].n_unique(),
            "training_pairs": len(training),
            "development_pairs": len(development),
            "examination_by_rank": [round(float(x), 4) for x in model.examination[:10]],
            "click_rate_relevant": round(model.liking, 4),
            "click_rate_noise": round(model.noise, 4),
        }
        clicked = ever_clicked(self._database, bounds)
        return Lessons(
            parts, model, training, development, clicked, wordings(impressions), counts, fingerprint(everything)
        )

    def _check_enough(self, found: int) -> None:
        least = self._recipe.mining.min_pairs
        if found < least:
            raise Skipped(f"{found} training pairs, but at least {least} are needed: more searches and clicks will do")

    def _mine(self, lessons: Lessons, corpus: Corpus, champion: Side) -> tuple[list[Triplet], list[Triplet]]:
        template = champion.release.template
        texts = {stored.document.id: render(template, stored.document) for stored in corpus.documents}
        encoder = open_encoder(self._releases.folder(champion.release.id), champion.release)
        queries = sorted({pair.query for pair in [*lessons.training, *lessons.development]})
        known = StoredVectors(
            list(texts.values()), champion.vectors, {query: encoder.query(lessons.wordings[query]) for query in queries}
        )
        margin, seed = self._recipe.mining.relative_margin, self._recipe.seed
        training, development = (
            triplets(pairs, lessons.clicked, texts, known, relative_margin=margin, seed=seed)
            for pairs in (lessons.training, lessons.development)
        )
        self._check_enough(len(training))
        return _worded(training, lessons.wordings), _worded(development, lessons.wordings)

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

    def _judge(
        self, lessons: Lessons, corpus: Corpus, champion: Side, candidate: Side
    ) -> tuple[list[Result], list[Result]]:
        """Per-query results on the holdout and on the development split, by the artefacts that serve."""
        ids = {stored.key: stored.document.id for stored in corpus.documents}
        alive = {document_id: key for key, document_id in ids.items()}
        sides = [(side, ShadowIndex(corpus.keys, side.vectors)) for side in (champion, candidate)]
        encoders = [open_encoder(self._releases.folder(side.release.id), side.release) for side, _ in sides]
        results = []
        for everything in (lessons.parts.holdout, lessons.parts.development):
            # Results of another release would favour a candidate that resembles it: what only it found has gains.
            part = everything.filter(pl.col("release") == champion.release.id)
            clusters = dict(part.select("query", "cluster").unique().rows())
            counts = count_people(part)
            gains = corrected_gains(counts, lessons.clicks)
            judged = judged_queries(judge(counts, lessons.clicks), gains, clusters, alive)
            asked = [lessons.wordings[item.query] for item in judged]
            first, second = (
                (shadow, query_vectors(encoder.query, asked, side.release.dimension))
                for (side, shadow), encoder in zip(sides, encoders, strict=True)
            )
            results.append(compare(judged, first, second, ids))
        return results[0], results[1]

    def _promote(self, run: Run, corpus: Corpus, candidate: Side, queries: Sequence[str], steps: "_Steps") -> None:
        """Builds and checks the new index, then hands it over."""
        folder = self._releases.folder(candidate.release.id)
        encode = open_encoder(folder, candidate.release).query
        build_id = self._releases.add_build(candidate.release.id).id
        try:
            index = build_index(self._store, build_id, candidate.release, corpus, candidate.vectors, steps.progress)
            try:
                probes = query_vectors(encode, queries, candidate.release.dimension)
                least = self._recipe.promotion.min_recall
                checks: dict[str, float] = check_index(index, corpus, candidate.vectors, probes, least)
            finally:
                index.close()
        except Exception:
            self._store.drop(build_id)
            self._releases.forget_build(build_id)
            raise
        cut = truncated(folder, candidate.release, [stored.document for stored in corpus.documents])
        self._runs.detail(run.id, build={**checks, "documents": len(corpus.keys), "truncated": cut})
        self._runs.update(run.id, build_id=build_id)
        mark_ready(self._database, build_id, corpus.revision)
        self._hand_over(run, build_id, steps)

    def _hand_over(self, run: Run, build_id: str, steps: "_Steps") -> None:
        """To the owner, or first to an admin who has to approve."""
        reasons = self._runs.get(run.id).reasons
        if self._recipe.promotion.mode == "approve":
            self._runs.wait_for_approval(run.id)
            return
        steps.begin("handing over")
        refused = hand_over(self._releases, run.id, build_id, self._make_owner)
        if refused is None:
            self._runs.supersede(run.id)
            self._runs.finish(run.id, "promoted", reasons)
        else:
            self._runs.finish(run.id, "rejected", [*reasons, f"the switch was refused: {refused}"])

    def _ready(self, build_id: str) -> bool:
        return any(build.id == build_id and build.state != "building" for build in self._releases.builds())

    def _lineage(self, champion: Release, lessons: Lessons) -> dict[str, Any]:
        return {
            "champion": champion.id,
            "data_sha256": lessons.data_sha256,
            "recipe": self._recipe.model_dump(),
            "packages": report.packages(),
        }

    def _clean(self, run_id: str) -> None:
        """A candidate that nobody will serve leaves only its report."""
        run = self._runs.get(run_id)
        if run.outcome not in ("promoted", "awaiting_approval"):
            self._releases.drop_unused(run_id.replace("run-", "release-", 1))
            shutil.rmtree(self._folder / run_id / "checkpoints", ignore_errors=True)


class _Steps:
    """Where a run is, for whoever watches: at once on the screen, about once a second in the database."""

    def __init__(self, runs: Runs, run_id: str, show: Progress, timings: dict[str, float]) -> None:
        self._runs, self._run_id, self._show, self._timings = runs, run_id, show, timings
        self._step, self._began, self._written = "", time.monotonic(), 0.0

    def begin(self, step: str) -> None:
        self._step, self._began = step, time.monotonic()
        self._runs.update(self._run_id, step=step, progress=0.0)
        self._show(step, 0.0)

    def progress(self, share: float) -> None:
        now = time.monotonic()
        self._timings[self._step] = round(now - self._began, 3)
        self._show(self._step, share)
        if now - self._written > 1.0:
            self._written = now
            self._runs.update(self._run_id, progress=share)


def _worded(found: Sequence[Triplet], texts: Mapping[str, str]) -> list[Triplet]:
    """The triplets with their queries as people wrote them."""
    return [replace(triplet, query=texts[triplet.query]) for triplet in found]


def _metrics(results: Sequence[Result], decision: Decision) -> dict[str, Any]:
    champion, candidate = summary(results, "champion"), summary(results, "candidate")
    found = decision.estimate
    return {
        "champion": champion,
        "candidate": candidate,
        "delta": {name: candidate[name] - champion[name] for name in champion},
        "interval": [found.low, found.high] if found.n > 1 else None,
        "clusters": found.n,
        "queries": len(results),
        "p_value": decision.p_value,
        "level": decision.level,
        "look": decision.look,
    }
