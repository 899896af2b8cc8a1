"""The whole gate on simulated clicks: what it makes of models whose true quality is known.

The functions that read, judge and decide at night do so here too, on the log of simulated people who search a real
corpus; the true relevances only make people click and measure afterwards. Guards are left out: they need no clicks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
import numpy.typing as npt
import polars as pl

from ..retriever.interleave import team_draft
from ..retriever.search import RANKER, ranker_of
from ..retriever.types import Document, Release, StoredDocument
from .clicks import choose
from .contenders import Contender
from .contest import Contest, Side
from .corpus import Corpus
from .evaluate import DEPTH, Result, Unit, evidence, sample_of, units, with_night
from .lives import Gatekeeper
from .people import People
from .preferences import drafted, leads, preferences
from .recipe import Recipe
from .sample import Sample
from .snapshot import cluster_of, commonest, normalised, wordings_of
from .split import DEVELOPMENT, HOLDOUT, numbers, split, untaught, who_judges
from .tally import tally
from .truth import measure
from .votes import Vote, Votes

CHAMPION = "champion"
CHALLENGER = "challenger"


@dataclass(frozen=True, slots=True)
class Habits:
    """How simulated people search and click; see `People`."""

    searches: int = 4_000  # a night, each by somebody else
    shown: int = 10
    bias: float = 1.0
    noise: float = 0.1


@dataclass(frozen=True, slots=True)
class Lived:
    """What became of a model that was offered every night until it was promoted.

    `true` is its gain in nDCG@10 by the true relevances on all queries that people search; `estimates` are what the
    holdout said of it, one a night; `people` what those preferred who saw its results; `night` when it was promoted.
    """

    name: str
    true: float
    estimates: list[Sample]
    people: Votes
    night: int | None


class Rehearsal:
    """A champion and its people. `queries` are what they search, `right` the rows of the documents they look for."""

    def __init__(
        self,
        documents: int,
        queries: Sequence[str],
        right: Sequence[frozenset[int]],
        champion: Contender,
        recipe: Recipe,
        habits: Habits,
        seed: int,
    ) -> None:
        self.recipe, self.habits, self.seed = recipe, habits, seed
        self.queries = queries
        self.right = [frozenset(str(row) for row in rows) for rows in right]
        keys = np.arange(documents, dtype=np.int64)
        self.corpus = Corpus(1, [StoredDocument(key, 1, False, Document(str(key))) for key in range(documents)], keys)
        self.champion = self.side(CHAMPION, champion)
        self.ranked = self.ranking(self.champion, champion)
        self._quality = self._ndcg(self.ranked)

    def live(self, contender: Contender, nights: int, traffic: float) -> Lived:
        """Offers the model every night. `traffic`: share of the searches that show its results while it is followed."""
        life = _Life(self, contender, traffic)
        promoted = next((night for night in range(1, nights + 1) if life.night(night)), None)
        gain = float(np.mean(self._ndcg(life.ranked) - self._quality))
        return Lived(contender.name, gain, life.estimates, life.people, promoted)

    def side(self, name: str, contender: Contender) -> Side:
        release = Release(name, None, contender.documents.shape[1], "{text}", "", "", 512, "", {}, {}, 0.0)
        known = dict(zip(self.queries, contender.queries, strict=True))
        return Side(release, self.corpus.keys, contender.documents, known.__getitem__)

    def ranking(self, side: Side, contender: Contender) -> list[list[int]]:
        """Keys of the documents that each query shows, best first."""
        depth = max(self.habits.shown, DEPTH)
        found: list[list[int]] = side.shadow.query(contender.queries, depth)[0].tolist()
        return found

    def _ndcg(self, ranked: list[list[int]]) -> npt.NDArray[np.float64]:
        """True nDCG@10 of every query."""
        return measure([[str(key) for key in keys] for keys in ranked], self.right)["nDCG@10"]


class _Life:
    """One model's nights beside the champion, in the order of `Night`."""

    def __init__(self, stage: Rehearsal, contender: Contender, traffic: float) -> None:
        self._stage, self._traffic = stage, traffic
        side = stage.side(CHALLENGER, contender)
        self._contest = Contest(stage.corpus, stage.champion, side)
        self.ranked = stage.ranking(side, contender)
        self.estimates: list[Sample] = []
        self._votes: list[Vote] = []
        self._seen: dict[str, Unit] = {}  # what the lists say, by cluster
        self._log: list[pl.DataFrame] = []
        self._gatekeeper = Gatekeeper(stage.recipe.promotion, people=traffic > 0)
        self._since = 0  # the last search before it was followed
        self._counted: set[str] = set()

    @property
    def people(self) -> Votes:
        """What everybody said who was shown both."""
        return Votes.of(len(self._votes), leads(self._votes).values())

    def night(self, number: int) -> bool:
        """Whether this night promotes the model."""
        self._log.append(self._searches(number))
        log, shares = pl.concat(self._log), self._stage.recipe.split
        clicks, texts = choose(log).judging, commonest(wordings_of(log))

        def results(part: pl.DataFrame) -> list[Result]:
            return self._contest.results(tally(part, by=("release", "cluster")), clicks, texts)

        gatekeeper = self._gatekeeper
        if gatekeeper.challenger is not None:
            taught = numbers(log.filter(pl.col("search") <= self._since)["cluster"].unique())
            heard = results(untaught(self._log[-1], taught, shares))
            fresh = [result for result in heard if result.cluster not in self._counted]
            self._counted |= {result.cluster for result in fresh}
            self._votes += preferences(self._log[-1], CHALLENGER).values()
            self._seen = with_night(self._seen, units(results(drafted(self._log[-1], CHALLENGER))))
            if gatekeeper.hear(evidence(fresh), self.people, sample_of(self._seen.values())):
                return True
        parted = split(log, who_judges(log, shares), shares)
        holdout = results(parted.filter(pl.col("part") == HOLDOUT))
        self.estimates.append(evidence(holdout))
        before = gatekeeper.challenger
        screened = results(parted.filter(pl.col("part") == DEVELOPMENT))
        promoted = gatekeeper.offer(evidence(screened), self.estimates[-1])
        if gatekeeper.challenger is not before:
            self._since = int(log["search"].max())  # type: ignore[arg-type]
            looked = gatekeeper.challenger is not None and gatekeeper.challenger.looked
            self._counted = {result.cluster for result in holdout} if looked else set()
            self._votes, self._seen = [], {}
        return promoted

    def _searches(self, night: int) -> pl.DataFrame:
        """Impressions of one night, as `read_log` gives them; some lists are drafted while the model is followed."""
        stage, habits = self._stage, self._stage.habits
        people = People(seed=stage.seed * 1000 + night, bias=habits.bias, noise=habits.noise)
        chance = Random(stage.seed * 1000 + night)
        rows = []
        for number, query in enumerate(people.queries(habits.searches, len(stage.queries)), 1):
            ours = [str(key) for key in stage.ranked[query][: habits.shown]]
            rankers = [RANKER] * len(ours)
            if self._gatekeeper.challenger is not None and chance.random() < self._traffic:
                theirs = [str(key) for key in self.ranked[query][: habits.shown]]
                picks = team_draft(ours, theirs, habits.shown, chance)
                ours, rankers = [id_ for id_, _ in picks], [ranker_of(team, CHALLENGER) for _, team in picks]
            clicked = set(people.clicks(ours, stage.right[query]))
            search, text = night * habits.searches + number, stage.queries[query]
            for rank, (id_, ranker) in enumerate(zip(ours, rankers, strict=True), 1):
                rows.append((search, text, id_, rank, ranker, rank in clicked))
        columns = ["search", "text", "document_id", "rank", "ranker", "clicked"]
        frame = pl.DataFrame(rows, schema=columns, orient="row")
        texts = frame.select(pl.col("text").unique())
        named = texts.with_columns(
            query=pl.Series([normalised(text) for text in texts["text"]]),
            cluster=pl.Series([cluster_of(text) for text in texts["text"]]),
        )
        joined = frame.join(named, on="text", maintain_order="left")
        return joined.with_columns(person=pl.col("search").cast(pl.String), release=pl.lit(CHAMPION))
