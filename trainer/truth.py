"""True relevances, where somebody has them: what they say of a ranking, and what perfect lessons would teach."""

import tempfile
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import ir_measures
import numpy as np
import numpy.typing as npt
from ir_measures import RR, Qrel, R, ScoredDoc, nDCG

from ..retriever.serving import render
from ..retriever.shadow import ShadowIndex
from ..retriever.types import Vectors
from .contenders import encode
from .contest import Side
from .corpus import Corpus
from .finetune import Course, finetune
from .lessons import Lessons, mine_triplets
from .mine import Pair
from .recipe import Recipe
from .snapshot import normalised

DEPTH = 10
TOGETHER = 256  # queries that are compared with all documents at a time
DECIDES = "nDCG@10"
MEASURES = {DECIDES: nDCG @ 10, "RR@10": RR @ 10, "R@10": R @ 10}
PerQuery = dict[str, npt.NDArray[np.float64]]  # measure → one value a query


@dataclass(frozen=True, slots=True)
class School:
    """What lessons are taught with at night: the log that they are about, the documents, the release that finds their
    hard negatives, and the folder of the model that training starts from.
    """

    lessons: Lessons
    corpus: Corpus
    finder: Side
    start: Path
    recipe: Recipe


def measure(ranked: Sequence[Sequence[str]], right: Sequence[Collection[str]]) -> PerQuery:
    """`ranked`: for each query the ids found, best first; `right`: the ids that answer it (binary relevance)."""
    qrels = [Qrel(str(query), id_, 1) for query, ids in enumerate(right) for id_ in sorted(ids)]
    run = [
        ScoredDoc(str(query), id_, -float(rank))  # trec_eval breaks ties of scores by id
        for query, ids in enumerate(ranked)
        for rank, id_ in enumerate(ids[:DEPTH])
    ]
    names = {metric: name for name, metric in MEASURES.items()}
    values: PerQuery = {name: np.zeros(len(ranked)) for name in MEASURES}
    for found in ir_measures.iter_calc(list(MEASURES.values()), qrels, run):
        values[names[found.measure]][int(found.query_id)] = found.value
    return values


def ranked_by(ids: Sequence[str], documents: Vectors, queries: Vectors) -> list[list[str]]:
    """The ids found for each query by exact search; `ids` belong to the rows of `documents`."""
    rows = ShadowIndex(np.arange(len(ids), dtype=np.int64), documents).query(queries, DEPTH)[0]
    return [[ids[row] for row in found] for found in rows.tolist()]


def ranks_of(rows: Sequence[int], documents: Vectors, queries: Vectors) -> npt.NDArray[np.int64]:
    """The rank (from 1) of these rows of `documents` for each query by exact search: queries × rows."""
    found = np.empty((len(queries), len(rows)), dtype=np.int64)
    for start in range(0, len(queries), TOGETHER):
        scores = queries[start : start + TOGETHER] @ documents.T
        for column, row in enumerate(rows):
            found[start : start + TOGETHER, column] = 1 + (scores > scores[:, [row]]).sum(axis=1)
    return found


def taught_by(
    pairs: Iterable[tuple[str, str]], school: School, questions: Sequence[str], progress: Callable[[float], None]
) -> list[list[str]]:
    """What a model finds for each question after the same training as at night, on these pairs of a query's text and a
    document's id. Raises Skipped where they are too few.
    """
    lessons, corpus, recipe = school.lessons, school.corpus, school.recipe
    known = {(normalised(text), id_): text for text, id_ in sorted(pairs)}
    training = [Pair(query, id_, 1.0) for query, id_ in known]
    wordings = {query: text for (query, _), text in known.items()} | lessons.wordings
    perfect = replace(lessons, training=training, wordings=wordings)
    triplets, development = mine_triplets(perfect, corpus, school.finder, recipe)
    release = school.finder.release
    prompts = {"query": release.query_prompt, "document": release.document_prompt}
    with tempfile.TemporaryDirectory() as work:
        course = Course(school.start, triplets, development, recipe.training, prompts)
        model, _ = finetune(course, Path(work), seed=recipe.seed, progress=progress)
    texts = [release.document_prompt + render(release.template, stored.document) for stored in corpus.documents]
    ids = [stored.document.id for stored in corpus.documents]
    queries = [release.query_prompt + question for question in questions]
    return ranked_by(ids, encode(model, texts, release.max_tokens), encode(model, queries, release.max_tokens))
