"""From clicks to judgments: what people did is counted, the click model that foresees it best is chosen, and each pair
of a query and a document is judged by it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from ..retriever.explore import EXPLORATION
from .click_fit import NAMES, fit, fit_all
from .click_models import GAPS, ClickModel, Floats, evidence, posterior, sigmoid, told, with_clicks_above

# What one person's queries weigh together: nobody is more than 2.5 % of a night of 4,000 searches, while whoever
# searches a few times a day counts in full for weeks.
MAX_QUERIES = 100
HELD_OUT = 0.2  # share of what people did that only compares the models
SEED = 0
MIN_LEFT = 0.05  # a list whose mean score is above 1 less this is full of copies of the query
MIN_LIFT = 0.1  # one click counts as at most ten
CART, PURCHASE = 2, 3  # levels of the log
PAIR = ("query", "document_id")
COUNTED = ("views", "clicks", "carts", "purchases")


@dataclass(frozen=True, slots=True)
class Choice:
    """The click model that was chosen, and for each its mean log-likelihood per impression on what was held out; empty
    where nothing was.
    """

    model: ClickModel
    held_out: dict[str, float]


def count_people(log: pl.DataFrame) -> pl.DataFrame:
    """One row per (query, document, rank, gap): how many people saw the document there (`views`), how many clicked
    (`clicks`), and how many of these clicks led to `carts` and `purchases`. `gap` is the distance to the last click
    above in the same search (0: none, at most GAPS - 1); `best` is the best rank at which a ranker ever put the
    document, or 0 where only exploration showed it, and `lead` how far it stood out of its list at most.

    A person counts once for a pair, at the rank of the click or else at the best rank shown, so that nobody gains
    weight by repeating, and a person with more than MAX_QUERIES queries counts for a fraction in each: by what they
    asked and not by what they clicked, which would bias the click rates.
    """
    level = pl.col("level") if "level" in log.columns else pl.col("clicked").cast(pl.Int64)
    ranked = pl.col("rank").filter(pl.col("ranker") != EXPLORATION) if "ranker" in log.columns else pl.col("rank")
    people = (
        _browsed(log)
        .with_columns(
            lead=pl.col("lead").max().over(PAIR),
            best=ranked.min().over(PAIR).fill_null(0),
            weight=(MAX_QUERIES / pl.col("query").n_unique().over("person")).clip(0, 1),
            level=level,
        )
        .sort("clicked", "rank", "gap", descending=[True, False, False])
        .group_by("query", "person", "document_id", maintain_order=True)
        .agg(pl.col("clicked", "rank", "gap", "best", "lead", "weight").first(), pl.col("level").max())
    )
    return (
        people.group_by(*PAIR, "rank", "gap", "best", "lead")
        .agg(
            views=pl.col("weight").sum(),
            clicks=pl.col("weight").filter("clicked").sum(),
            carts=pl.col("weight").filter(pl.col("level") == CART).sum(),
            purchases=pl.col("weight").filter(pl.col("level") == PURCHASE).sum(),
        )
        .sort(*PAIR, "rank", "gap")
    )


def choose(log: pl.DataFrame, names: Sequence[str] = NAMES) -> Choice:
    """Fits the models of these names without a part of the log, drawn by person and query, and takes the one under
    which that part is likeliest; the first, unless another is better by more than a standard error over queries: a
    richer model that explains nothing more only adds variance. The one chosen is fitted again to everything.
    """
    visits = log.select("query", "person").unique().sort("query", "person")
    held = visits.filter(np.random.default_rng(SEED).random(len(visits)) < HELD_OUT)
    taught = count_people(log.join(held, on=["query", "person"], how="anti"))
    asked = log.join(held, on=["query", "person"], how="semi")
    everything = count_people(log)
    if taught.is_empty() or asked.is_empty():
        return Choice(fit(everything, names[0]), {})
    scores = {name: _log_likelihood(taught, asked, model) for name, model in fit_all(taught, names).items()}
    best, most = names[0], 0.0
    for name in names[1:]:
        gain = scores[name] - scores[names[0]]
        if gain.sum() > max(most, float(np.std(gain) * np.sqrt(len(gain)))):
            best, most = name, float(gain.sum())
    return Choice(fit(everything, best), {name: float(score.sum() / len(asked)) for name, score in scores.items()})


def judge(counts: pl.DataFrame, model: ClickModel) -> pl.DataFrame:
    """Judgments: query, document_id, `relevance` (posterior probability that the document is relevant), its standard
    deviation (`error`), clicks and views.

    The prior shrinks both: a pair that few saw keeps nearly the odds of its rank. Relevance is yes or no, so that one
    probability is all that is known about it; an interval of it would be [0, 1] for everything in doubt, and the
    standard deviation says how much doubt there is.
    """
    pairs = counts.group_by(PAIR).agg(pl.col("clicks", "views").sum()).sort(PAIR)
    relevance = posterior(evidence(counts, model.prior.exposure), model)
    return pairs.select(
        *PAIR,
        relevance=pl.Series(relevance, dtype=pl.Float64),
        error=pl.Series(np.sqrt(relevance * (1 - relevance)), dtype=pl.Float64),
        clicks="clicks",
        views="views",
    )


def corrected_gains(counts: pl.DataFrame, model: ClickModel) -> pl.DataFrame:
    """For every shown document of a query its `gain`: an estimate of its relevance whose expectation is 1 for a
    relevant and 0 for any other document, whatever the rank. Single estimates are noisy, and may be negative.

    The affine correction (Vardasbi, Oosterhuis, de Rijke 2020), which is inverse propensity scoring (Joachims,
    Swaminathan, Schnabel 2017) where noise and trust are none: gain = Σ (clicks − wrong · views) / (right − wrong) / Σ
    views. It needs no prior. What was clicked above is settled before a result is looked at, so the correction holds by
    distance too. Where right − wrong is below MIN_LIFT of its largest value that is taken, which shrinks the gain
    towards 0.
    """
    right, wrong = model.clicked(counts["rank"].to_numpy().astype(np.int64) - 1, counts["gap"].to_numpy())
    least = MIN_LIFT * float((model.right - model.wrong).max())
    excess = (counts["clicks"].to_numpy() - wrong * counts["views"].to_numpy()) / np.maximum(right - wrong, least)
    return (
        counts.with_columns(excess=pl.Series(excess, dtype=pl.Float64))
        .group_by(PAIR, maintain_order=True)
        .agg(gain=pl.col("excess").sum() / pl.col("views").sum())
        .sort(PAIR)
    )


def _browsed(log: pl.DataFrame) -> pl.DataFrame:
    """The log with what each result follows in its search: `above` clicks, the last at a distance of `gap` (see
    GAPS), and how far it stands out of its list (`lead`), sorted by search and rank.
    """
    last = pl.when("clicked").then("rank").forward_fill().shift(1).over("search")
    return log.sort("search", "rank").with_columns(
        gap=(pl.col("rank") - last).clip(0, GAPS - 1).fill_null(0),
        above=pl.col("clicked").cum_sum().over("search") - pl.col("clicked"),
        lead=_lead() if "score" in log.columns else pl.lit(0.0),
    )


def _lead() -> pl.Expr:
    """The share of the way from the mean score of its list to 1, a perfect match, that a result has gone: it compares
    between models whose scores have other scales. 0 where the score is not known.
    """
    mean = pl.col("score").mean().over("search")
    return ((pl.col("score") - mean) / (1 - mean).clip(MIN_LEFT)).fill_null(0.0)


def _log_likelihood(taught: pl.DataFrame, held: pl.DataFrame, model: ClickModel) -> Floats:
    """Of each query's clicks and skips, foreseen one after the other down the list: from what the others did with the
    same pair, and from the clicks above. Without these a model of browsing would take the credit for what they say
    about relevance.
    """
    rows = _browsed(held)
    asked = (
        rows.group_by(PAIR).agg(pl.col("rank").min(), pl.col("lead").max()).sort(PAIR).with_columns(gap=0, best="rank")
    )
    nothing = asked.with_columns(pl.lit(0.0).alias(name) for name in COUNTED)
    known = pl.concat([taught, nothing.select(taught.columns)], how="vertical_relaxed")
    seen = evidence(known, model.prior.exposure)
    number = known.select(PAIR).unique().sort(PAIR).with_row_index("pair")
    pair = rows.join(number, on=PAIR, how="left", maintain_order="left")["pair"].to_numpy()
    features = with_clicks_above(seen.features[pair], rows["above"].to_numpy().astype(float))
    relevance = sigmoid(told(seen, model)[pair] + model.prior.log_odds(seen.best[pair], features))
    right, wrong = model.clicked(rows["rank"].to_numpy().astype(np.int64) - 1, rows["gap"].to_numpy())
    click = relevance * right + (1 - relevance) * wrong
    likelihood = np.log(np.where(rows["clicked"].to_numpy(), click, 1 - click))
    query = (rows["query"].rank("dense").cast(pl.Int64) - 1).to_numpy()
    return np.bincount(query, likelihood).astype(float)
