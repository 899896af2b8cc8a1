"""What people did, counted: sums over places, so that nights add up."""

import polars as pl

from ..retriever.explore import EXPLORATION
from .click_models import GAPS
from .snapshot import EVERYTHING

# Of one person's queries so many count: nobody is more than 2.5 % of a night of 4,000 searches.
MAX_QUERIES = 100
CART, PURCHASE = 2, 3  # levels of the log
PAIR = ("query", "document_id")
PLACE = ("rank", "gap", "best", "lead", "within")
COUNTED = ("views", "clicks", "carts", "purchases")
MIN_LEFT = 0.05  # a list whose mean score is above 1 less this is full of copies of the query
RANKS, DISTANCES = 2**20, 2**4  # more than there are of each


def count_people(log: pl.DataFrame) -> pl.DataFrame:
    """The counts of a log for click models."""
    return counted(tally(fairly(log)))


def tally(log: pl.DataFrame, by: tuple[str, ...] = ()) -> pl.DataFrame:
    """One row per `by`, PAIR and PLACE: how many people saw the document there (`views`), how many clicked (`clicks`),
    and how many of these clicks led to `carts` and `purchases`. `gap` is the distance to the last click above in the
    same search (0: none, at most GAPS - 1); `best` the best rank at which a ranker put the document before the same
    people, or 0 where only exploration showed it; `lead` how far it stood out of its list, in tenths; `within` is the
    filter of searches that judge, and null for others (see `judging`).

    A person counts once for a pair (in searches that judge, and in others), at the rank of the click or else at the
    best rank shown, so that nobody gains weight by repeating, or by changing filters. The tallies of different people
    add up.
    """
    own = _explored(log)
    level = pl.col("level") if "level" in log.columns else pl.col("clicked").cast(pl.Int64)
    # One number, the smallest where the person counts.
    place = ((~pl.col("clicked")).cast(pl.Int64) * RANKS + pl.col("rank")) * DISTANCES + pl.col("gap")
    people = (
        judging(browsed(log), by)
        .with_columns(own=own, level=level)
        .group_by(*by, *PAIR, "person", "within")
        .agg(
            place=place.min(),
            best=pl.when(~pl.col("own")).then("rank").min().fill_null(0),
            lead=pl.col("lead").max(),
            level=pl.col("level").max(),
        )
    )
    rank = pl.col("place") // DISTANCES
    return (
        people.with_columns(rank=rank % RANKS, gap=pl.col("place") % DISTANCES, clicked=rank < RANKS)
        .group_by(*by, *PAIR, *PLACE)
        .agg(
            views=pl.len().cast(pl.Int64),
            clicks=pl.col("clicked").sum().cast(pl.Int64),
            carts=(pl.col("level") == CART).sum().cast(pl.Int64),
            purchases=(pl.col("level") == PURCHASE).sum().cast(pl.Int64),
        )
    )


def summed(tallies: pl.DataFrame) -> pl.DataFrame:
    """One row for each place; those where nothing is left are gone."""
    keys = [name for name in tallies.columns if name not in COUNTED]
    return tallies.group_by(keys).agg(pl.col(COUNTED).sum()).filter(pl.any_horizontal(pl.col(COUNTED) != 0))


def less(tallies: pl.DataFrame) -> pl.DataFrame:
    """What takes these tallies away when it is added."""
    return tallies.with_columns(-pl.col(COUNTED))


def counted(tallies: pl.DataFrame, by: tuple[str, ...] = ()) -> pl.DataFrame:
    """One row per (`by`, query, document, rank, gap), with the `best` rank and the largest `lead` of the pair."""
    pair = (*by, *PAIR)
    best = pl.when(pl.col("best") > 0).then("best").min().over(pair)
    return (
        tallies.with_columns(best=best.fill_null(0), lead=pl.col("lead").max().over(pair))
        .group_by(*pair, "rank", "gap", "best", "lead")
        .agg(pl.col(COUNTED).sum())
        .sort(*pair, "rank", "gap")
    )


def fairly(log: pl.DataFrame) -> pl.DataFrame:
    """The log with at most MAX_QUERIES queries of each person, drawn by what they asked and not by what they clicked,
    which would bias the click rates.
    """
    queries = log.group_by("person").agg(pl.col("query").n_unique())
    busy = queries.filter(pl.col("query") > MAX_QUERIES)["person"]
    if busy.is_empty():
        return log
    place = pl.col("query").hash(seed=0).rank("dense").over("person")
    return log.filter(~pl.col("person").is_in(busy.implode()) | (place <= MAX_QUERIES))


def judging(log: pl.DataFrame, by: tuple[str, ...] = ()) -> pl.DataFrame:
    """The log, sorted by search, with null in `within` for searches that cannot be compared with another model's
    ranking: those that explored, and those in which somebody asked the same again (of the same `by`) within another
    filter. Their first one was chosen before they saw anything, so what they found has no say in it. Doing it again,
    also with a part of these searches, changes nothing.
    """
    within = pl.col("within") if "within" in log.columns else pl.lit(EVERYTHING)
    first = pl.col("within").drop_nulls().first().over(*by, "person", "query")
    told = log.with_columns(within=within)
    return told.with_columns(
        within=pl.when(~_explored(log).any().over("search") & (pl.col("within") == first)).then("within")
    )


def browsed(log: pl.DataFrame) -> pl.DataFrame:
    """The log sorted by search and rank, with what each result follows in its search: the last click above, at a
    distance of `gap` (see GAPS); and how far it stands out of its list (`lead`).
    """
    log = log.sort("search", "rank")
    rank, search = (pl.when("clicked").then(name).forward_fill().shift(1) for name in ("rank", "search"))
    distance = pl.when(search == pl.col("search")).then(pl.col("rank") - rank)
    lead = _lead() if "score" in log.columns else pl.lit(0, dtype=pl.Int8)
    return log.with_columns(gap=distance.clip(0, GAPS - 1).fill_null(0), lead=lead)


def _explored(log: pl.DataFrame) -> pl.Expr:
    return pl.col("ranker") == EXPLORATION if "ranker" in log.columns else pl.lit(False)


def _lead() -> pl.Expr:
    """The share of the way from the mean score of its list to 1, a perfect match, that a result has gone, in tenths: it
    compares between models whose scores have other scales. 0 where the score is not known.
    """
    mean = pl.col("score").mean().over("search")
    tenths = 10 * (pl.col("score") - mean) / (1 - mean).clip(MIN_LEFT)
    return tenths.clip(-100, 100).round().fill_nan(0).fill_null(0).cast(pl.Int8)
