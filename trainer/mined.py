"""What mining makes of simulated clicks under each click model, where it is known which pairs are right."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from .click_fit import fit_all
from .click_models import ClickModel
from .clicks import choose, corrected_gains, judge
from .people import people
from .tally import PAIR, count_people

THRESHOLDS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
KEPT = 0.95  # share of the right pairs that shall be kept


Ranking = Sequence[tuple[str, float]]  # ids of documents with their scores


@dataclass(frozen=True, slots=True)
class Mined:
    """Of the clicked pairs under one model: at each of THRESHOLDS the share that is right (`precision`) and the share
    of the right ones that is kept (`coverage`); `at_kept`, the precision where KEPT of the right ones are kept; `area`
    under precision over coverage; `gain_right` and `gain_wrong`, the mean corrected gains of right and of other pairs
    per person who saw them. `naive` is the share that is right of all clicked pairs.
    """

    model: str
    chosen: bool
    naive: float
    precision: list[float]
    coverage: list[float]
    at_kept: float
    area: float
    gain_right: float
    gain_wrong: float


def simulated(
    kind: str, ranked: Sequence[Ranking], right: Sequence[Collection[str]], searches: int, seed: int
) -> pl.DataFrame:
    """A log of people of this kind, each search by somebody else, on what each query shows (`ranked`, best first)."""
    crowd = people(kind, seed)
    rows = []
    for search, query in enumerate(crowd.queries(searches, len(ranked))):
        clicked = crowd.clicks([document_id for document_id, _ in ranked[query]], right[query])
        rows += [
            (search, str(query), str(search), document_id, rank, score, rank in clicked)
            for rank, (document_id, score) in enumerate(ranked[query], 1)
        ]
    columns = ["search", "query", "person", "document_id", "rank", "score", "clicked"]
    return pl.DataFrame(rows, schema=columns, orient="row")


def mine(log: pl.DataFrame, right: Sequence[Collection[str]]) -> Iterator[Mined]:
    """Every model's, and last that of the one chosen. `right` by the number of the query."""
    counts = count_people(log)
    for model in fit_all(counts).values():
        yield measure(counts, model, right, chosen=False)
    yield measure(counts, choose(log).model, right, chosen=True)


def measure(counts: pl.DataFrame, model: ClickModel, right: Sequence[Collection[str]], chosen: bool) -> Mined:
    """Raises ValueError where no right pair was clicked."""
    pairs = judge(counts, model).join(corrected_gains(counts, model), on=PAIR)
    pairs = pairs.with_columns(right=pl.Series([id_ in right[int(query)] for query, id_ in pairs.select(PAIR).rows()]))
    clicked = pairs.filter(pl.col("clicks") > 0).sort("relevance", descending=True)
    is_right, relevance = clicked["right"].to_numpy(), clicked["relevance"].to_numpy()
    if not is_right.any():
        raise ValueError("no right pair was clicked: simulate more searches")
    found = np.cumsum(is_right)
    precision, coverage = found / np.arange(1, len(found) + 1), found / found[-1]
    passed = [int((relevance >= threshold).sum()) for threshold in THRESHOLDS]

    def gain(part: pl.DataFrame) -> float:
        return float(np.average(part["gain"].to_numpy(), weights=part["views"].to_numpy())) if len(part) else 0.0

    return Mined(
        model=model.name,
        chosen=chosen,
        naive=float(is_right.mean()),
        precision=[float(precision[count - 1]) if count else 1.0 for count in passed],
        coverage=[float(coverage[count - 1]) if count else 0.0 for count in passed],
        at_kept=float(precision[np.searchsorted(coverage, KEPT)]),
        area=float(precision[is_right].mean()),
        gain_right=gain(pairs.filter("right")),
        gain_wrong=gain(pairs.filter(~pl.col("right"))),
    )
