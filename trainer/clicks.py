"""From counts to judgments: the click model that foresees best what people do is chosen, and each pair of a query and a
document is judged by it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from .click_fit import NAMES, fit, fit_all
from .click_models import ClickModel, Floats, evidence, posterior, sigmoid, told, with_clicks_above
from .tally import COUNTED, PAIR, browsed, count_people

HELD_OUT = 0.2  # share of what people did that only compares the models
SEED = 0
MIN_LIFT = 0.1  # one click counts as at most ten


@dataclass(frozen=True, slots=True)
class Choice:
    """The click model that was chosen, for mining; the same for decisions (`judging`), fitted so that every query
    cluster counts the same; and for each model its mean log-likelihood per impression on what was held out, empty where
    nothing was.
    """

    model: ClickModel
    judging: ClickModel
    held_out: dict[str, float]


def choose(log: pl.DataFrame, names: Sequence[str] = NAMES) -> Choice:
    """Fits the models of these names without a part of the log, drawn by person and query, and takes the one under
    which that part is likeliest; the first, unless another is better by more than a standard error over queries: a
    richer model that explains nothing more only adds variance. The one chosen is fitted again to everything.

    A decision is a mean over query clusters. By a fit to searches the noise would be that of what is asked often, and
    where people click less on the rest (nobody looks, or the app remembers the answer to what is asked often), whatever
    replaces what they were shown there would look like a gain.
    """
    visits = log.select("query", "person").unique().sort("query", "person")
    held = visits.filter(np.random.default_rng(SEED).random(len(visits)) < HELD_OUT)
    taught = count_people(log.join(held, on=["query", "person"], how="anti"))
    asked = log.join(held, on=["query", "person"], how="semi")
    everything = count_people(log)

    def chosen(name: str, likelihoods: dict[str, float]) -> Choice:
        return Choice(fit(everything, name), fit(_weighed(everything, log), name), likelihoods)

    if taught.is_empty() or asked.is_empty():
        return chosen(names[0], {})
    scores = {name: _log_likelihood(taught, asked, model) for name, model in fit_all(taught, names).items()}
    best, most = names[0], 0.0
    for name in names[1:]:
        gain = scores[name] - scores[names[0]]
        if gain.sum() > max(most, float(np.std(gain) * np.sqrt(len(gain)))):
            best, most = name, float(gain.sum())
    return chosen(best, {name: float(score.sum() / len(asked)) for name, score in scores.items()})


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


def corrected_gains(counts: pl.DataFrame, model: ClickModel, by: tuple[str, ...] = ()) -> pl.DataFrame:
    """For every shown document of a query, and each `by`, its views and its `gain`: an estimate of its relevance whose
    expectation is 1 for a relevant and 0 for any other document, whatever the rank. Single estimates are noisy, and may
    be negative.

    The affine correction (Vardasbi, Oosterhuis, de Rijke 2020), which is inverse propensity scoring (Joachims,
    Swaminathan, Schnabel 2017) where noise and trust are none: gain = Σ (clicks − wrong · views) / (right − wrong) / Σ
    views. It needs no prior. What was clicked above is settled before a result is looked at, so the correction holds by
    distance too. Where right − wrong is below MIN_LIFT of its largest value that is taken, which shrinks the gain
    towards 0.

    `variance` and `third` are the central moments that noise alone gives to this estimate, drawn or not: a view adds
    q (1 − q) and q (1 − q) (1 − 2q) to those of the clicks, with q = wrong. `click` is what one more click is worth.
    """
    right, wrong = model.clicked(counts["rank"].to_numpy().astype(np.int64) - 1, counts["gap"].to_numpy())
    lift = np.maximum(right - wrong, MIN_LIFT * float((model.right - model.wrong).max()))
    views = counts["views"].to_numpy()
    squares = views * wrong * (1 - wrong)
    sums = {
        "gain": (counts["clicks"].to_numpy() - wrong * views) / lift,
        "variance": squares / lift**2,
        "third": squares * (1 - 2 * wrong) / lift**3,
    }
    total = pl.col("views").sum()
    return (
        counts.with_columns(pl.Series(name, values, dtype=pl.Float64) for name, values in sums.items())
        .with_columns(click=pl.Series(1 / lift))
        .group_by(*by, *PAIR, maintain_order=True)
        .agg(
            total,
            *(pl.col(name).sum() / total**power for power, name in enumerate(sums, 1)),
            click=pl.col("click").max() / total,
        )
        .sort(*by, *PAIR)
    )


def _weighed(counts: pl.DataFrame, log: pl.DataFrame) -> pl.DataFrame:
    """The counts with a `weight`, by which the people of each query cluster count as one, times the effective number of
    people a cluster (Kish 1965): so heavy is what they say beside a prior.
    """
    cluster = pl.col("cluster" if "cluster" in log.columns else "query").alias("cluster")
    asked = log.group_by(cluster).agg(pl.col("query").unique(), weight=1 / pl.col("person").n_unique()).sort("cluster")
    weights = asked.explode("query").select("query", weight=pl.col("weight") / asked["weight"].mean())
    return counts.join(weights, on="query", how="left", maintain_order="left")


def _log_likelihood(taught: pl.DataFrame, held: pl.DataFrame, model: ClickModel) -> Floats:
    """Of each query's clicks and skips, foreseen one after the other down the list: from what the others did with the
    same pair, and from the clicks above. Without these a model of browsing would take the credit for what they say
    about relevance.
    """
    rows = browsed(held).with_columns(above=pl.col("clicked").cum_sum().over("search") - pl.col("clicked"))
    asked = rows.group_by(PAIR).agg(pl.col("rank").min(), pl.col("lead").max()).sort(PAIR)
    asked = asked.with_columns(gap=0, best="rank")
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
