"""Teaching: from what a log says to a candidate that is exported and recorded before anybody judges it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import orjson

from ..retriever.errors import ModelError
from ..retriever.releases import Releases, write_whole
from ..retriever.serving import QUANTISED
from ..retriever.types import Release
from .finetune import Course, finetune, mixed
from .judge import Tonight
from .lessons import mine_triplets
from .mine import Triplet
from .recipe import Recipe

Watcher = Callable[[Tonight, Release], None]


class Teacher:
    def __init__(self, releases: Releases, folder: Path, recipe: Recipe, watch: Watcher) -> None:
        """`folder` holds a folder for every run. `watch` is shown every candidate before it is judged."""
        self._releases = releases
        self._folder = folder
        self._recipe = recipe
        self._watch = watch

    def teach(self, tonight: Tonight) -> Release:
        """Raises Skipped when too little is left to train on. A run that goes on has its candidate already."""
        steps, champion = tonight.steps, tonight.champion
        steps.begin("mining hard negatives")
        training, development = mine_triplets(tonight.lessons, tonight.corpus, champion, self._recipe)
        steps.begin("fine-tuning")
        release_id = tonight.run.id.replace("run-", "release-", 1)
        release = self._whole(release_id) or self._train(tonight, training, development, release_id)
        self._watch(tonight, release)
        return release

    def draw_back(self, tonight: Tonight, trained: Release, share: float) -> Release:
        """Another candidate, this share of the way from the weights that training started with to the trained ones."""
        assert trained.parent is not None
        release_id = f"{trained.id}-{share * 100:.0f}"
        release = self._whole(release_id)
        if release is None:
            start, end = (self._releases.folder(id_) / "model" for id_ in (trained.parent, trained.id))
            lineage = {**trained.lineage, "share": share}
            release = self._releases.make(
                mixed({end: share, start: 1 - share}),
                parent=trained.parent,
                lineage=lineage,
                release_id=release_id,
                quantised=trained.engine == QUANTISED,
            )
        self._watch(tonight, release)
        return release

    def _whole(self, release_id: str) -> Release | None:
        if not self._releases.whole(release_id):
            return None
        release = self._releases.get(release_id)
        self._releases.record(release)  # it may have been interrupted just before that
        return release

    def _train(self, tonight: Tonight, training: list[Triplet], development: list[Triplet], release_id: str) -> Release:
        run, champion = tonight.run, tonight.champion.release
        start, work = training_start(self._releases, champion, self._recipe), self._folder / run.id
        course = Course(
            start=self._releases.folder(start.id) / "model",
            training=training,
            development=development,
            dials=self._recipe.training,
            prompts={"query": champion.query_prompt, "document": champion.document_prompt},
        )
        model, curve = finetune(course, work / "checkpoints", seed=self._recipe.seed, progress=tonight.steps.progress)
        write_whole(work / "curve.json", orjson.dumps(curve))
        lineage = {
            "run": run.id,
            "pairs": len(tonight.lessons.training),
            "triplets": len(training),
            "log_seq": run.log_seq,
            "event_seq": run.event_seq,
            "split": self._recipe.split.model_dump(),
        }
        quantised = champion.engine == QUANTISED
        release = self._releases.make(
            model, parent=start.id, lineage=lineage, release_id=release_id, quantised=quantised
        )
        shutil.rmtree(work / "checkpoints", ignore_errors=True)
        return release


def training_start(releases: Releases, champion: Release, recipe: Recipe) -> Release:
    """The release whose weights are trained further. Raises ModelError when that is the first one and it is gone."""
    if recipe.training.start == "champion":
        return champion
    first = releases.first()
    if first is None:
        raise ModelError('training.start = "first", but the first release is gone: set training.start = "champion"')
    return first
