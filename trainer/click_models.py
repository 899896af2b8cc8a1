"""What clicks say about relevance: the model of a click, the evidence of a log, and the posterior of a pair.

Relevance is binary and hidden. A model holds how often a relevant and how often any other document is clicked at a rank
and a distance to the last click above it, and the prior of a pair: a logistic function of what the log says about it
apart from its own clicks.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

GAPS = 5  # distances to the last click above: none, 1, 2, 3, and 4 or more
LEVELS = 3  # what a click led to: nothing more, add_to_cart, purchase
FEATURES = 3
EXPLORED = 0.01  # share of relevant documents among those that only exploration showed; too few to be fitted
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Prior:
    """Log-odds that a pair is relevant, before its clicks: `base[best rank - 1] + weights · (features - centre)`.

    The features are whole doublings of the other queries for which the document was shown (what is shown for everything
    is seldom meant), and of the clicks on the query's other documents (who found it there does not need it here), and
    tenths of its lead (what stands out of its list is more often right). `exposure` has for each `document_id` the
    number of `queries` it was shown for. It holds no clicks, so those who teach may share it with those who judge.
    """

    base: Floats
    weights: Floats
    centre: Floats
    exposure: pl.DataFrame

    def log_odds(self, best: Ints, features: Floats) -> Floats:
        """Of pairs with this best rank, counted from 0 (-1: only exploration showed it), and these features (a row a
        pair).
        """
        ranked = self.base[np.clip(best, 0, len(self.base) - 1)]
        base = np.where(best < 0, np.log(EXPLORED / (1 - EXPLORED)), ranked)
        return np.asarray(base + (features - self.centre) @ self.weights)


@dataclass(frozen=True, slots=True)
class ClickModel:
    """`right[r - 1, g]` and `wrong[r - 1, g]` are the probabilities of a click on a relevant and on any other document
    at rank r whose last click above is at distance g (0: none; GAPS - 1: that or more). `later[l]` are the log-odds for
    relevance of a click because it led to level l.
    """

    name: str
    right: Floats
    wrong: Floats
    later: Floats
    prior: Prior

    @property
    def examination(self) -> Floats:
        """How much a click depends on relevance at each rank, relative to rank 1, while nothing above was clicked: in
        the models by position and of browsing the probability of looking there.
        """
        lift = self.right[:, 0] - self.wrong[:, 0]
        return np.asarray(lift / lift[0])

    @property
    def share(self) -> Floats:
        """The share of relevant documents by their best rank, other things being average."""
        return sigmoid(self.prior.base)

    def clicked(self, rank: Ints, gap: Ints) -> tuple[Floats, Floats]:
        """Click probabilities at ranks counted from 0: of a relevant and of any other document."""
        rank = np.minimum(rank, len(self.right) - 1)
        return self.right[rank, gap], self.wrong[rank, gap]


@dataclass(frozen=True, slots=True)
class Evidence:
    """Counts as arrays, ranks from 0. By row: `pair`, `rank`, `gap`, `views`, `clicks`. By pair: its `best` rank (-1:
    only exploration showed it), its `features` (a column each), its clicks by what they led to (`levels`), and how many
    pairs look like it, by their weight (`times`).
    """

    pair: Ints
    rank: Ints
    gap: Ints
    views: Floats
    clicks: Floats
    best: Ints
    features: Floats
    levels: Floats
    times: Floats

    @property
    def skips(self) -> Floats:
        return np.maximum(self.views - self.clicks, 0.0)


def exposure(counts: pl.DataFrame) -> pl.DataFrame:
    return counts.group_by("document_id").agg(queries=pl.col("query").n_unique())


def evidence(counts: pl.DataFrame, exposure: pl.DataFrame, alike: bool = False) -> Evidence:
    """The counts as arrays; pairs in the order of (query, document). `alike` keeps one of the pairs that look the same:
    most do, and millions of searches come down to some thousand kinds. Each counts by its `weight`, if there is one.
    """
    weight = pl.col("weight").first() if "weight" in counts.columns else pl.lit(1.0)
    rows = counts.with_columns(pair=pl.struct("query", "document_id").rank("dense").cast(pl.Int64) - 1).sort(
        "pair", "rank", "gap"
    )
    pairs = (
        rows.group_by("pair", maintain_order=True)
        .agg(
            pl.col("query", "document_id").first(),
            pl.col("best").min(),
            pl.col("lead").max(),
            pl.col("clicks", "carts", "purchases").sum(),
            look=pl.struct("rank", "gap", "views", "clicks", "carts", "purchases").hash().sum(),
            times=weight,
        )
        .join(exposure, on="document_id", how="left", maintain_order="left")
        .with_columns(
            shown=_doublings(pl.col("queries").fill_null(1) - 1),
            other=_doublings((pl.col("clicks").sum().over("query") - pl.col("clicks")).clip(0)),
        )
    )
    if alike:
        kinds = pairs.group_by("look", "best", "shown", "other", "lead", maintain_order=True)
        kept = kinds.agg(pl.col("pair").first(), pl.col("times").sum()).select("pair", "times")
        pairs = pairs.drop("times").join(kept, on="pair", how="inner", maintain_order="left")
        rows = rows.join(kept, on="pair", how="semi", maintain_order="left")
    clicks, carts, purchases = (_floats(pairs, name) for name in ("clicks", "carts", "purchases"))
    return Evidence(
        pair=(rows["pair"].rank("dense").cast(pl.Int64) - 1).to_numpy(),
        rank=rows["rank"].to_numpy().astype(np.int64) - 1,
        gap=rows["gap"].to_numpy().astype(np.int64),
        views=_floats(rows, "views"),
        clicks=_floats(rows, "clicks"),
        best=pairs["best"].to_numpy().astype(np.int64) - 1,
        features=np.stack([_floats(pairs, name) for name in ("shown", "other", "lead")], axis=1),
        levels=np.stack([clicks - carts - purchases, carts, purchases], axis=1),
        times=_floats(pairs, "times"),
    )


def posterior(seen: Evidence, model: ClickModel) -> Floats:
    """The probability that each pair is relevant, by Bayes over all its views."""
    return sigmoid(told(seen, model) + model.prior.log_odds(seen.best, seen.features))


def told(seen: Evidence, model: ClickModel) -> Floats:
    """What each pair's own clicks and skips add to its log-odds."""
    right, wrong = model.clicked(seen.rank, seen.gap)
    odds = seen.clicks * np.log(right / wrong) + seen.skips * (np.log1p(-right) - np.log1p(-wrong))
    return np.asarray(np.bincount(seen.pair, odds, len(seen.best)) + seen.levels @ model.later)


def with_clicks_above(features: Floats, above: Floats) -> Floats:
    """The features when this many clicks on other documents of the query are known besides."""
    other = np.floor(np.log2(2 ** features[:, 1] + above))
    return np.column_stack([features[:, 0], other, features[:, 2:]])


def sigmoid(odds: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-np.clip(odds, -30, 30))))


def _doublings(count: pl.Expr) -> pl.Expr:
    """0 for 0, 1 for 1 and 2, 2 for 3 to 6, and so on: whole numbers, so that many pairs look alike."""
    return (count + 1).log(2).floor()


def _floats(frame: pl.DataFrame, name: str) -> Floats:
    return frame[name].to_numpy().astype(float)
