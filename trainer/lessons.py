"""What a log teaches: evidence to judge by, and the pairs and hard negatives to train on."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from ..retriever.serving import render
from ..retriever.types import Release
from .click_models import ClickModel
from .clicks import Choice, choose, judge
from .contest import Side
from .corpus import Corpus
from .golden import Golden, read_golden
from .history import History
from .mine import Pair, StoredVectors, Triplet, drawn, positives, triplets
from .recipe import Recipe
from .robots import evenly
from .runs import Bounds
from .split import DEVELOPMENT, HOLDOUT, TRAINING, number, numbers
from .tally import PAIR, counted

MODEL_SEARCHES = 20_000  # the newest, that the click models are fitted to
DEVELOPMENT_PAIRS = 1_000  # that choose the best epoch, at most
LOST = 0.1  # share of a night's clicks or searches that is worth a word if they teach nothing


class Skipped(Exception):
    """There is not enough to learn from; the message says what is missing."""

    outcome = "skipped"


class Undecidable(Skipped):
    """Too few queries judge for any decision about the candidate."""

    outcome = "not_enough_evidence"


@dataclass(frozen=True, slots=True)
class Lessons:
    """`holdout` and `screened` are tallies of what judges and the development split saw of the answers of `champion`;
    `training` and `development` the pairs of the whole history. `clicked` and `wordings` are about the queries of all
    these; `counts` is for the report; `golden` is what an admin judged.
    """

    champion: str
    holdout: pl.DataFrame
    screened: pl.DataFrame
    clicks: ClickModel
    training: list[Pair]
    development: list[Pair]
    clicked: dict[str, set[str]]
    wordings: dict[str, str]
    counts: dict[str, Any]
    data_sha256: str
    golden: Golden | None

    def check_pairs(self, recipe: Recipe) -> None:
        """Raises Skipped when too few of the training pairs were clicked in answers of the champion."""
        _check_pairs(sum(pair.confirmed for pair in self.training), recipe, self.counts)

    def check_judges(self, recipe: Recipe) -> None:
        """Raises Undecidable when too few query clusters judge."""
        judging, least = self.holdout["cluster"].n_unique(), recipe.promotion.min_queries
        if judging < least:
            raise Undecidable(
                f"{judging} query clusters judge, but at least {least} are needed: more different searches will do"
                + _lost(self.counts)
            )


def read_lessons(
    history: History,
    bounds: Bounds,
    champion: Release,
    recipe: Recipe,
    progress: Callable[[float], None] = lambda _share: None,
) -> Lessons:
    """Brings the history up to these bounds first.

    Raises InvalidInput when the golden judgments cannot be read, before anything else is done.
    """
    golden = read_golden(recipe.golden)
    history.advance(bounds, progress)
    choice = choose(evenly(history.newest(MODEL_SEARCHES)))
    holdout, screened = (history.answered(part, champion.id) for part in (HOLDOUT, DEVELOPMENT))
    liked = history.liked()
    taught, developed = (history.seen(liked.filter(pl.col("part") == part)) for part in (TRAINING, DEVELOPMENT))
    training, development = (
        positives(judge(counted(seen), choice.model), recipe.mining.min_relevance) for seen in (taught, developed)
    )
    wordings = pl.concat([seen.select("query", "text") for seen in (taught, developed, holdout, screened)]).unique()
    training = _confirmed(training, taught.filter(pl.col("release") == number(champion.id)))
    return Lessons(
        champion=champion.id,
        holdout=holdout,
        screened=screened,
        clicks=choice.judging,
        training=training,
        development=development,
        clicked=_clicked(history, liked, {pair.query for pair in [*training, *development]}),
        wordings=dict(wordings.rows()),
        counts={
            **history.night,
            "training_pairs": len(training),
            "training_pairs_confirmed": sum(pair.confirmed for pair in training),
            "development_pairs": len(development),
            **_model_counts(choice),
        },
        data_sha256=history.sha256,
        golden=golden,
    )


def mine_triplets(
    lessons: Lessons, corpus: Corpus, champion: Side, recipe: Recipe
) -> tuple[list[Triplet], list[Triplet]]:
    """For training and for development, with queries as people wrote them.

    Raises Skipped when too few are left.
    """
    texts = {stored.document.id: render(champion.release.template, stored.document) for stored in corpus.documents}
    lesson = drawn(lessons.training, recipe.training.max_pairs, lessons.data_sha256)
    exam = drawn(lessons.development, DEVELOPMENT_PAIRS, lessons.data_sha256)
    queries = sorted({pair.query for pair in [*lesson, *exam]})
    known = StoredVectors(
        list(texts.values()),
        champion.vectors,
        {query: champion.encode(lessons.wordings[query]) for query in queries},
    )
    training, development = (
        triplets(pairs, lessons.clicked, texts, known, relative_margin=recipe.mining.relative_margin, seed=recipe.seed)
        for pairs in (lesson, exam)
    )
    _check_pairs(len(training), recipe, lessons.counts)
    return _worded(training, lessons.wordings), _worded(development, lessons.wordings)


def _check_pairs(found: int, recipe: Recipe, counts: Mapping[str, Any]) -> None:
    least = recipe.mining.min_pairs
    if found < least:
        needed = f"{found} training pairs, but at least {least} are needed: more searches and clicks will do"
        raise Skipped(needed + _lost(counts))


def _lost(counts: Mapping[str, Any]) -> str:
    """What more than a tenth of the night's clicks or searches were lost by, to add to a reason."""
    if "searches" not in counts:  # nothing was ever read
        return ""
    clicks, robots = counts["clicks_received"], counts["robot_searches_left_out"]
    losses = (
        (counts["clicks_of_unknown_searches"], clicks, "clicks name no search in the log"),
        (counts["clicks_of_documents_not_shown"], clicks, "clicks name documents that their search did not show"),
        (robots, counts["searches"] + robots, "searches were left out as robots'"),
    )
    return "".join(f"; {lost:,} of {all_:,} {what}" for lost, all_, what in losses if lost > LOST * all_)


def _confirmed(pairs: Sequence[Pair], tallies: pl.DataFrame) -> list[Pair]:
    """The same pairs; those that have clicks in these tallies are confirmed."""
    clicked = set(tallies.group_by(PAIR).agg(pl.col("clicks").sum()).filter(pl.col("clicks") > 0).select(PAIR).rows())
    return [replace(pair, confirmed=(pair.query, pair.document_id) in clicked) for pair in pairs]


def _clicked(history: History, liked: pl.DataFrame, queries: Collection[str]) -> dict[str, set[str]]:
    """What anybody ever clicked for these queries: never their negatives."""
    asked = numbers(pl.Series("query", list(queries), dtype=pl.String)).to_frame()
    pairs = history.named(liked.join(asked, on="query", how="semi").select(PAIR).unique())
    return {query: set(ids) for query, ids in pairs.group_by("query").agg("document_id").rows()}


def _model_counts(choice: Choice) -> dict[str, Any]:
    model = choice.model
    return {
        "examination_by_rank": [round(float(x), 4) for x in model.examination[:10]],
        "click_rate_relevant": round(float(model.right[0, 0]), 4),
        "click_rate_noise": round(float(model.wrong[0, 0]), 4),
        "click_model": model.name,
        "held_out_log_likelihood": {name: round(value, 5) for name, value in choice.held_out.items()},
    }


def _worded(found: Sequence[Triplet], texts: Mapping[str, str]) -> list[Triplet]:
    return [replace(triplet, query=texts[triplet.query]) for triplet in found]
