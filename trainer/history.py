"""What all nights so far have read, as counts: a night adds what is new and takes the rest from here.

Only searches that count are in it: not those of robots, and of one person not more than `fairly` leaves. What a person
did with one query is a visit: their first MAX_SEARCHES searches for it that one release answered. When more of a visit
arrives, a search or a late click, it is read again, and the difference that this makes is added: so it does not matter
how the log was cut into nights. Texts are 64-bit numbers here; of ten million different ones two are the same with a
chance of 3e-6.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl

from ..retriever.database import Database
from .recipe import Recipe
from .robots import Robots, without_robots
from .runs import Bounds
from .segments import Merge, Segments
from .snapshot import (
    block_end,
    clicked_later,
    clicks_received,
    cluster_of,
    fingerprint,
    last_search,
    normalised,
    read_log,
    read_searches,
)
from .split import DEVELOPMENT, HOLDOUT, number, numbers, split, who_judges
from .tally import COUNTED, PAIR, fairly, judging, less, summed, tally

FORMAT = 5  # another number makes every history anew
BLOCK, BLOCK_RESULTS = 100_000, 1_000_000  # searches and results that are read together: 1.2 GiB a million results
MAX_SEARCHES = 10
JUDGED = (DEVELOPMENT, HOLDOUT)  # parts whose searches are compared with a ranking
RECENT = 20_000  # searches that robots are told by, besides the new ones
SCHEMAS = {
    "tallies": pl.Schema(
        {
            "part": pl.Int8,
            "release": pl.UInt64,
            "query": pl.UInt64,
            "document_id": pl.UInt64,
            "rank": pl.Int32,
            "gap": pl.Int8,
            "best": pl.Int32,
            "lead": pl.Int8,
            "within": pl.UInt64,
            **dict.fromkeys(COUNTED, pl.Int32),
        }
    ),
    "visits": pl.Schema({"visit": pl.UInt64, "search": pl.Int64}),
    "closed": pl.Schema({"visit": pl.UInt64}),
    "people": pl.Schema({"person": pl.UInt64, "judges": pl.Boolean, "opening": pl.UInt64}),
    "wordings": pl.Schema(
        {"query": pl.UInt64, "text": pl.String, "cluster": pl.UInt64, "searches": pl.Int64, "first": pl.Int64}
    ),
    "documents": pl.Schema({"document_id": pl.UInt64, "name": pl.String}),
    "filters": pl.Schema({"within": pl.UInt64, "name": pl.String}),
}


def _same_wordings(wordings: pl.DataFrame) -> pl.DataFrame:
    return wordings.group_by("query", "text", "cluster").agg(pl.col("searches").sum(), pl.col("first").min())


MERGES: dict[str, Merge] = {
    "tallies": summed,
    "visits": lambda visits: visits,
    "closed": lambda visits: visits,
    "people": lambda people: people,
    "wordings": _same_wordings,
    "documents": lambda documents: documents.unique(),
    "filters": lambda filters: filters.unique(),
}


class History:
    """Its methods beside `advance` say what was known at the bounds of the last one."""

    def __init__(self, folder: Path, database: Database, recipe: Recipe) -> None:
        self._database = database
        self._recipe = recipe
        self._kept = Segments(folder, SCHEMAS, MERGES)

    def advance(self, bounds: Bounds, progress: Callable[[float], None] = lambda _share: None) -> None:
        """Adds what arrived up to these bounds. What was made from another log, by another version or with other
        settings of `_key` is made anew from the whole log.
        """
        self._kept.open()
        if self._kept.state and not self._continues(bounds):
            self._kept.clear()
        start = self.bounds.search
        while self.bounds != bounds:
            before = self.bounds.search
            end = block_end(self._database, BLOCK_RESULTS, before, min(bounds.search, before + BLOCK))
            self._add(end, bounds)
            progress((end - start) / max(bounds.search - start, 1))

    @property
    def bounds(self) -> Bounds:
        return Bounds(**self._kept.state.get("bounds", {"search": 0, "event": 0}))

    @property
    def sha256(self) -> str:
        """Of all that was read, night by night."""
        return str(self._kept.state.get("sha256", ""))

    @property
    def night(self) -> Mapping[str, Any]:
        """For the report: what the last night added."""
        night = self._kept.state.get("night", {"counts": {}, "pushed": []})
        pushed = night["pushed"]
        return {**night["counts"], "pushed_documents": len(pushed), "pushed_document_ids": pushed[:10]}

    # What it knows

    def answered(self, part: int, release_id: str) -> pl.DataFrame:
        """Tallies of what people of this part, one of JUDGED, saw of the answers of this release in searches that
        judge. Each query has its `text`, and its `cluster`; `within` is the filter.
        """
        release = pl.col("release") == number(release_id)
        found = self._kept.scan("tallies").filter(pl.col("part") == part, release, pl.col("within").is_not_null())
        named = self.named(summed(found.collect())).with_columns(release=pl.lit(release_id))
        filters = self._kept.scan("filters").join(named.lazy(), on="within", how="semi").unique().collect()
        named = named.join(filters, on="within").drop("within").rename({"name": "within"})
        queries = named["query"].unique()
        clusters = pl.Series([cluster_of(query) for query in queries], dtype=pl.String)
        return named.join(pl.DataFrame({"query": queries, "cluster": clusters}), on="query")

    def liked(self) -> pl.DataFrame:
        """Numbers of the pairs that anybody clicked, with the `part` of who did."""
        clicks = self._kept.scan("tallies").select("part", *PAIR, "clicks").filter(pl.col("clicks") != 0)
        return clicks.group_by("part", *PAIR).agg(pl.col("clicks").sum()).filter(pl.col("clicks") > 0).collect()

    def seen(self, pairs: pl.DataFrame) -> pl.DataFrame:
        """Tallies of all that people did with these pairs (`part`, PAIR by number) in the whole history."""
        tallies = self._kept.scan("tallies")
        return self.named(summed(tallies.join(pairs.lazy(), on=["part", *PAIR], how="semi").collect()))

    def named(self, numbered: pl.DataFrame) -> pl.DataFrame:
        """The same with texts instead of the numbers of PAIR: the queries normalised, and with the `text` in which they
        were asked most often.
        """
        asked, shown = (numbered.lazy().select(pl.col(name).unique()) for name in PAIR)
        wordings = self._kept.scan("wordings").join(asked, on="query", how="semi").collect()
        ordered = _same_wordings(wordings).sort("query", "searches", "text", descending=[False, True, False])
        texts = ordered.unique("query", keep="first").select("query", "text")
        texts = texts.with_columns(name=pl.Series([normalised(text) for text in texts["text"]], dtype=pl.String))
        ids = self._kept.scan("documents").join(shown, on="document_id", how="semi").unique().collect()
        named = numbered.join(texts, on="query").drop("query").rename({"name": "query"})
        return named.join(ids, on="document_id").drop("document_id").rename({"name": "document_id"})

    def clusters(self, until: int) -> pl.Series:
        """Numbers of the query clusters that anybody had searched by then."""
        known = self._kept.scan("wordings").filter(pl.col("first") <= until).select(pl.col("cluster").unique())
        return known.collect()["cluster"]

    def newest(self, searches: int) -> pl.DataFrame:
        """The impressions of so many newest searches."""
        return self._impressions(self._kept.scan("visits").select(pl.col("search").top_k(searches)))

    def since(self, search: int) -> pl.DataFrame:
        """The impressions of all later searches, `judging` by the whole visits that they belong to, and whether the
        person never asked this before (`first`).
        """
        visits = self._kept.scan("visits")
        later = visits.filter(pl.col("search") > search).select("visit").unique()
        whole = self._impressions(visits.join(later, on="visit", how="semi").select("search"))
        first = pl.col("search") == pl.col("search").min().over("person", "cluster", "release")
        return judging(whole, by=("release",)).with_columns(first=first).filter(pl.col("search") > search)

    def _impressions(self, which: pl.LazyFrame) -> pl.DataFrame:
        return read_searches(self._database, which.collect()["search"].sort().to_list(), self.bounds.event)

    # A night

    def _continues(self, bounds: Bounds) -> bool:
        state, known = self._kept.state, self.bounds
        earlier = known.search <= bounds.search and known.event <= bounds.event
        same_log = state["last"] == last_search(self._database, known.search)
        return earlier and same_log and state["key"] == self._key()

    def _key(self) -> dict[str, Any]:
        """What the counts depend on besides the log."""
        most = self._recipe.mining.max_searches_per_person
        return {"format": FORMAT, "split": self._recipe.split.model_dump(), "max_searches_per_person": most}

    def _add(self, end: int, tonight: Bounds) -> None:
        before = self.bounds
        new = read_log(self._database, Bounds(end, tonight.event), after=before.search)
        late = clicked_later(self._database, before, tonight.event)
        honest, honestly_late, refused, robots = self._honest(new, late, tonight.event)
        fair = fairly(honest)
        visits, closed, again = self._visits(fair, honestly_late, refused)
        fresh = fair.join(visits, on="search", how="semi", maintain_order="left")
        now, then = (read_searches(self._database, again, event) for event in (tonight.event, before.event))
        judges, added = self._judges(new, now)
        changed = [self._tallied(pl.concat([fresh, now]), judges), less(self._tallied(then, judges))]
        documents, filters = fresh["document_id"].unique(), fresh["within"].unique()
        found = {
            "tallies": summed(pl.concat(changed)),
            "visits": visits,
            "closed": closed,
            "people": added,
            "wordings": _wordings(fresh),
            "documents": pl.DataFrame({"document_id": numbers(documents), "name": documents}),
            "filters": pl.DataFrame({"within": numbers(filters), "name": filters}),
        }
        read = fingerprint(pl.concat([new, now]))
        state = {
            "key": self._key(),
            "bounds": asdict(Bounds(end, tonight.event)),
            "last": last_search(self._database, end),
            "sha256": hashlib.sha256(f"{self.sha256} {read}".encode()).hexdigest(),
            "night": self._report(before, tonight, new, honest, judges, robots),
        }
        tables = {name: found[name].select(schema.names()).cast(schema) for name, schema in SCHEMAS.items()}
        self._kept.add(tables, state)

    def _honest(
        self, new: pl.DataFrame, late: Sequence[int], event: int
    ) -> tuple[pl.DataFrame, list[int], list[int], Robots]:
        """What is new, and which searches of `late`, of those that count, got their clicks from people, and which from
        robots. These are told by what they did lately, too, late clicks included.
        """
        counts = self._kept.scan("visits").select("search")
        recent = counts.select(pl.col("search").top_k(RECENT)).collect()["search"]
        known = counts.filter(pl.col("search").is_in(late)).collect()["search"]
        earlier = pl.concat([recent, known]).unique().sort()
        lately = read_searches(self._database, earlier.to_list(), event)
        honest, robots = without_robots(pl.concat([lately, new]), self._recipe.mining.max_searches_per_person)
        good = known.is_in(honest["search"].unique().implode())
        honestly, refused = (known.filter(which).sort().to_list() for which in (good, ~good))
        return honest.filter(pl.col("search") > self.bounds.search), honestly, refused, robots

    def _visits(
        self, log: pl.DataFrame, late: Sequence[int], refused: Sequence[int]
    ) -> tuple[pl.DataFrame, pl.DataFrame, list[int]]:
        """The visits of new searches (`visit`, `search`); those that are closed now, because a search in `refused` is
        of them; and numbers of earlier searches whose visit has changed: by a new one, or by an event of a search in
        `late`. A closed visit stays as it was counted: read again, the clicks that were refused would be in it.
        """
        known = self._kept.scan("visits")
        closed = known.filter(pl.col("search").is_in(refused)).select("visit").unique().collect()
        shut = pl.concat([self._kept.scan("closed").collect(), closed])
        new = _visits_of(log).join(shut, on="visit", how="anti")
        clicked = known.filter(pl.col("search").is_in(late)).select("visit").collect()
        clicked = clicked.join(shut, on="visit", how="anti")
        touched = pl.concat([new.select("visit"), clicked]).unique()
        old = known.join(touched.lazy(), on="visit", how="semi").collect()
        place = pl.col("search").rank("ordinal").over("visit")
        counted = pl.concat([old, new]).filter(place <= MAX_SEARCHES)
        added = counted.join(old, on="search", how="anti")
        changed = pl.concat([added.select("visit"), clicked]).unique()
        return added, closed, old.join(changed, on="visit", how="semi")["search"].sort().to_list()

    def _judges(self, new: pl.DataFrame, old: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Everybody of both logs (`person`) and whether they `judge`; and who was not known, as they are kept."""
        people = pl.concat([new, old])["person"].unique()
        named = pl.DataFrame({"name": people, "person": numbers(people)})
        everybody = self._kept.scan("people")
        known = named.join(everybody.join(named.lazy(), on="person", how="semi").collect(), on="person")
        begun = everybody.group_by("opening").agg(people=pl.len().cast(pl.Int64)).collect()
        asked = new.select("search", "person", "cluster")
        strangers = asked.join(known, left_on="person", right_on="name", how="anti")
        firsts = who_judges(strangers, self._recipe.split, begun)
        judges = pl.concat([known.select("judges", person="name"), firsts.select("judges", "person")])
        return judges, firsts.with_columns(numbers(firsts["person"]))

    def _tallied(self, log: pl.DataFrame, judges: pl.DataFrame) -> pl.DataFrame:
        parted = split(log, judges, self._recipe.split)
        texts = [numbers(parted[name]) for name in ("release", *PAIR, "person", "within")]
        numbered = parted.with_columns(texts)
        judged = pl.when(pl.col("part").is_in(JUDGED)).then("within")  # else a row for each filter would serve nobody
        return tally(numbered.with_columns(within=judged), by=("part", "release"))

    def _report(
        self,
        before: Bounds,
        tonight: Bounds,
        new: pl.DataFrame,
        honest: pl.DataFrame,
        judges: pl.DataFrame,
        robots: Robots,
    ) -> dict[str, Any]:
        """What this block added, and the blocks before it that belong to the same night."""
        people = judges.join(honest.select("person").unique(), on="person", how="semi")["judges"]
        counts: dict[str, int] = {
            "searches": honest["search"].n_unique(),
            "clicks": int(honest["clicked"].sum()),
            "queries": honest["query"].n_unique(),
            "people": len(people),
            "people_who_teach": int((~people).sum()),
            "people_who_judge": int(people.sum()),
            "robots_left_out": robots.people,
            "robot_searches_left_out": new["search"].n_unique() - honest["search"].n_unique(),
            **clicks_received(self._database, before, tonight.event),
        }
        night = self._kept.state.get("night", {})
        pushed = set(robots.pushed)
        if night.get("bounds") == asdict(tonight):
            counts = {name: count + night["counts"][name] for name, count in counts.items()}
            pushed |= set(night["pushed"])
        return {"bounds": asdict(tonight), "counts": counts, "pushed": sorted(pushed)}


def _visits_of(log: pl.DataFrame) -> pl.DataFrame:
    """`visit` and `search`, one row a search."""
    searches = log.group_by("search").agg(pl.col("person", "query", "release").first())
    names = searches.select(pl.concat_str("person", "query", "release", separator="\0")).to_series()
    return searches.select(visit=numbers(names), search="search")


def _wordings(log: pl.DataFrame) -> pl.DataFrame:
    found = log.group_by("query", "text").agg(
        pl.col("cluster").first(), searches=pl.col("search").n_unique(), first=pl.col("search").min()
    )
    return found.with_columns(numbers(found["query"]), numbers(found["cluster"]))
