"""What a log teaches: judgments of learners and of judges, and the pairs and hard negatives to train on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from ..retriever.database import Database
from ..retriever.encoder import render
from ..retriever.types import Release
from .click_models import ClickModel
from .clicks import choose, count_people, judge
from .contest import Side
from .corpus import Corpus
from .golden import Golden, read_golden
from .mine import Pair, StoredVectors, Triplet, positives, triplets
from .recipe import Recipe
from .robots import evenly, without_robots
from .snapshot import Bounds, ever_clicked, fingerprint, first_clusters, read_log, wordings
from .split import Parts, split


class Skipped(Exception):
    """There is not enough to learn from; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Lessons:
    """`log` is all of it without robots; `champion` the release it is about; `counts` is for the report;
    `golden` is what an admin judged.
    """

    champion: str
    log: pl.DataFrame
    parts: Parts
    clicks: ClickModel
    training: list[Pair]
    development: list[Pair]
    clicked: dict[str, set[str]]
    wordings: dict[str, str]
    counts: dict[str, Any]
    data_sha256: str
    golden: Golden | None


def read_lessons(database: Database, bounds: Bounds, champion: Release, recipe: Recipe) -> Lessons:
    """From the searches that the champion was not trained on; those of nights without a promotion add up.

    Raises InvalidInput when the golden judgments cannot be read, before anything else is done.
    """
    golden = read_golden(recipe.golden)
    everything = read_log(database, bounds, after=champion.lineage.get("log_seq", 0))
    impressions, robots = without_robots(everything, recipe.mining.max_searches_per_person)
    parts = split(impressions, first_clusters(database, bounds), recipe.split)
    choice = choose(evenly(impressions))
    model = choice.model
    training, development = (
        positives(judge(count_people(part), model), recipe.mining.min_relevance)
        for part in (parts.training, parts.development)
    )
    counts = {
        "searches": impressions["search"].n_unique(),
        "clicks": int(impressions["clicked"].sum()),
        "people": impressions["person"].n_unique(),
        "people_who_teach": parts.training["person"].n_unique(),
        "people_who_judge": parts.holdout["person"].n_unique(),
        "robots_left_out": robots.people,
        "robot_searches_left_out": robots.searches,
        "pushed_documents": len(robots.pushed),
        "pushed_document_ids": robots.pushed[:10],
        "queries": impressions["query"].n_unique(),
        "training_pairs": len(training),
        "development_pairs": len(development),
        "examination_by_rank": [round(float(x), 4) for x in model.examination[:10]],
        "click_rate_relevant": round(float(model.right[0, 0]), 4),
        "click_rate_noise": round(float(model.wrong[0, 0]), 4),
        "click_model": model.name,
        "held_out_log_likelihood": {name: round(value, 5) for name, value in choice.held_out.items()},
    }
    return Lessons(
        champion=champion.id,
        log=impressions,
        parts=parts,
        clicks=model,
        training=training,
        development=development,
        clicked=ever_clicked(database, bounds),
        wordings=wordings(impressions),
        counts=counts,
        data_sha256=fingerprint(everything),
        golden=golden,
    )


def mine_triplets(
    lessons: Lessons, corpus: Corpus, champion: Side, recipe: Recipe
) -> tuple[list[Triplet], list[Triplet]]:
    """For training and for development, with queries as people wrote them.

    Raises Skipped when too few are left.
    """
    texts = {stored.document.id: render(champion.release.template, stored.document) for stored in corpus.documents}
    queries = sorted({pair.query for pair in [*lessons.training, *lessons.development]})
    known = StoredVectors(
        list(texts.values()),
        champion.vectors,
        {query: champion.encode(lessons.wordings[query]) for query in queries},
    )
    training, development = (
        triplets(pairs, lessons.clicked, texts, known, relative_margin=recipe.mining.relative_margin, seed=recipe.seed)
        for pairs in (lessons.training, lessons.development)
    )
    check_enough(len(training), recipe)
    return _worded(training, lessons.wordings), _worded(development, lessons.wordings)


def check_enough(found: int, recipe: Recipe) -> None:
    least = recipe.mining.min_pairs
    if found < least:
        raise Skipped(f"{found} training pairs, but at least {least} are needed: more searches and clicks will do")


def _worded(found: Sequence[Triplet], texts: Mapping[str, str]) -> list[Triplet]:
    return [replace(triplet, query=texts[triplet.query]) for triplet in found]
