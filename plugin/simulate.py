"""`clickloop simulate`: the real loop on a BEIR folder, with simulated people whose true wishes are known.

Documents, service, log and nights are those of `clickloop serve` and `clickloop train`; only the people are simulated.
True relevances make them click, and measure afterwards; no part of the loop sees them.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..retriever.types import Event, Release
from ..trainer.contest import Side
from ..trainer.corpus import Corpus, corpus_vectors, read_corpus
from ..trainer.judge import Tonight
from ..trainer.lessons import Skipped
from ..trainer.people import people
from ..trainer.truth import DECIDES, School, ranked_by
from .collection import Question, check_writable, read_documents, read_split
from .crowd import Crowd, Farm, hire, shown_low
from .loop import ClickLoop
from .oracles import Known, oracle
from .plan import Plan
from .prepared import Show, prepare
from .progress import Steps
from .scoreboard import Scoreboard
from .settings import Settings, own_settings

EVENTS = 500  # sent together
FILE_WIDTH = 140  # of the tables where nobody looks


@dataclass(frozen=True, slots=True)
class Candidate:
    """What a night trained, on which pairs of a query's text and a document's id."""

    release: str
    pairs: list[tuple[str, str]]
    tonight: Tonight


def simulate(folder: Path, data_dir: Path, plan: Plan, json: Path | None) -> dict[str, Any]:
    """Lives the nights of the plan in `data_dir`, which is emptied first, and returns what is written to `json`, as far
    as it is known after every night and every oracle.
    """
    if json is not None:
        check_writable(json)
    people(plan.people, plan.seed)  # refuses an unknown kind before any work
    documents = read_documents(folder)
    asked, test = (_merged(read_split(folder, split, documents)) for split in ("train", "test"))
    if plan.test_queries is not None:
        test = Random(plan.seed).sample(test, min(plan.test_queries, len(test)))
    console, started = Console(stderr=True), time.monotonic()
    exploration = None if plan.exploration is None else {"share": plan.exploration}
    training = None if plan.soup is None else {"soup": plan.soup}
    settings = own_settings(data_dir=data_dir, exploration=exploration, training=training)
    console.print(
        f"{len(documents)} documents; {len(asked)} queries that simulated people search, {len(test)} that only measure"
    )
    nights: list[dict[str, Any]] = []
    oracles: dict[str, Any] = {}
    with Steps() as steps:
        prepared = prepare(documents, settings, steps.show)
        life = _Life(settings, asked, test, plan, steps.show)

        def known() -> dict[str, Any]:
            result = {
                "folder": folder.name,
                "plan": asdict(plan),
                "recipe": settings.recipe.model_dump(mode="json"),
                "exploration": settings.exploration.model_dump(mode="json"),
                "first": life.first(),
                "nights": nights,
                "oracles": oracles,
                "shares": {side: _shares(found["gain"], oracles) for side, found in _last(nights).items()},
                "farms": life.farms(),
                "seconds": round(time.monotonic() - started),
            }
            if json is not None:
                json.write_bytes(orjson.dumps(result, option=orjson.OPT_INDENT_2))
            return result

        try:
            for number in range(1, plan.nights + 1):
                nights.append(life.night(number))
                result = known()
            for name, found in life.oracles(prepared) if plan.oracles else ():
                oracles[name] = found
                result = known()
        finally:
            life.close()
    _print(result)
    return result


def _merged(questions: Sequence[Question]) -> list[Question]:
    """One question for each text."""
    right: dict[str, frozenset[str]] = {}
    for question in questions:
        right[question.text] = right.get(question.text, frozenset()) | question.right
    return [Question(text, ids) for text, ids in sorted(right.items())]


def _last(nights: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, float]]:
    """Measures of what is served after the last night, and of the newest candidate, served or not."""
    candidates = [night["candidate"] for night in nights if "candidate" in night]
    return {"served": nights[-1]["served"]} | ({"candidate": candidates[-1]} if candidates else {})


def _shares(gain: float, oracles: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """How much this gain is of each oracle's; without those that gained nothing."""
    gains = {name: found["gain"] for name, found in oracles.items() if "gain" in found}
    return {name: gain / best for name, best in gains.items() if best > 0}


class _Life:
    """The service, its people, and what is known about both."""

    def __init__(
        self, settings: Settings, asked: Sequence[Question], test: Sequence[Question], plan: Plan, show: Show
    ) -> None:
        self._plan, self._show = plan, show
        self._recipe = settings.recipe
        self._right = {question.text: question.right for question in asked}
        self._crowd = Crowd(plan, self._right)
        self._known = Known(self._right, self._recipe.split.holdout + self._recipe.split.development)
        self._tonight: Candidate | None = None
        self._newest: Candidate | None = None  # of all nights
        self._loop = ClickLoop(settings)
        self._loop.start(nights=False)
        self._loop.wait_until_ready()
        corpus = read_corpus(self._loop.documents)
        self._ids = [stored.document.id for stored in corpus.documents]
        self._looked = self._live()  # the release that farms know
        self._first = self._side(self._loop.releases.get(self._looked), corpus)
        self._farms = hire(plan.farms, self._shown_low(self._first), plan.seed) if plan.farms else []
        self._board = Scoreboard(self._ids, test, [farm.document for farm in self._farms])
        self._board.enter_side(self._looked, self._first)

    def close(self) -> None:
        self._loop.close()

    def first(self) -> dict[str, float]:
        return self._board.means(self._first.release.id)

    def night(self, number: int) -> dict[str, Any]:
        """A day of searches, the night after it, and what is true about both."""
        self._day(number)
        self._tonight = None
        show: Callable[[str, float], None] = lambda step, share: self._show(f"night {number}: {step}", share, "")  # noqa: E731
        run = self._loop.run_night(self._loop.runs.queue("simulation").id, show, self._watch)
        result = {
            "night": number,
            "outcome": run.outcome,
            "reasons": run.reasons,
            "served": self._board.means(self._live()),
            "counts": run.details.get("mining", {}),
            "timings": run.details.get("timings", {}),
        }
        candidate: Candidate | None = self._tonight
        if candidate is None:
            return result
        self._newest = candidate
        return result | {
            "candidate": self._board.means(candidate.release),
            "mined": self._known.mined(candidate.pairs),
        }

    def oracles(self, prepared: Path) -> Iterator[tuple[str, dict[str, Any]]]:
        """What the newest night's training makes of perfect lessons, by name, from the first release in the folder
        `prepared`; nothing where no night trained.
        """
        if self._newest is None:
            return
        tonight, release = self._newest.tonight, self._first.release
        start = prepared / "releases" / release.id / "model"
        school = School(tonight.lessons, tonight.corpus, self._first, start, self._recipe)
        for name, pairs in self._known.lessons().items():
            try:
                ranked = oracle(pairs, school, self._board.questions, self._progress(f"oracle: {name}"))
            except Skipped as reason:
                yield name, {"pairs": len(pairs), "skipped": str(reason)}
                continue
            self._board.enter(name, ranked)
            yield name, {"pairs": len(pairs), **self._board.means(name)}

    def farms(self) -> list[dict[str, Any]]:
        """What each pushed document ranks like before the first night and after the last."""
        first, served = (self._board.watched(release) for release in (self._first.release.id, self._live()))
        return [
            {"document": farm.document, "first": before, "served": after}
            for farm, before, after in zip(self._farms, first, served, strict=True)
        ]

    # A day

    def _day(self, number: int) -> None:
        events: list[Event] = []
        farms = self._paying()
        for done, visit in enumerate(self._crowd.day(number, farms), 1):
            answer = self._loop.search(visit.text, who=visit.who)
            shown = [hit.id for hit in answer]
            ranks = visit.clicks(shown)
            if visit.honest:
                self._known.saw(visit.text, shown, [shown[rank - 1] for rank in ranks])
            for rank in ranks:
                event_id = f"{answer.query_id}-{rank}"
                clicked = shown[rank - 1]
                events.append(Event(event_id, answer.query_id, "click", clicked, rank, visit.who, None, time.time()))
            if len(events) >= EVENTS:
                self._loop.add_events(events)
                events = []
            self._show(f"night {number}: people search", done / self._crowd.size(farms), "")
        self._loop.add_events(events)

    def _paying(self) -> list[Farm]:
        """Farms search what the live release shows their documents low for, or as before where there is nothing."""
        if not self._plan.farm_share:
            return []
        if self._farms and self._live() != self._looked:
            self._looked = self._live()
            side = self._side(self._loop.releases.get(self._looked), read_corpus(self._loop.documents))
            low = self._shown_low(side)
            self._farms = [replace(farm, queries=low.get(farm.document, farm.queries)) for farm in self._farms]
        return self._farms

    def _shown_low(self, side: Side) -> dict[str, list[str]]:
        self._show(f"farms look at {side.release.id}", 0.0, "")
        texts = sorted(self._right)
        ranked = ranked_by(self._ids, side.vectors, side.queries(texts))
        return shown_low(dict(zip(texts, ranked, strict=True)), self._right)

    # Truth

    def _watch(self, tonight: Tonight, release: Release) -> None:
        """Measures the candidate; its vectors are kept, so that judging it afterwards costs nothing more."""
        lessons = tonight.lessons
        pairs = [(lessons.wordings[pair.query], pair.document_id) for pair in lessons.training]
        self._board.enter_side(release.id, self._side(release, tonight.corpus))
        self._tonight = Candidate(release.id, pairs, tonight)

    def _side(self, release: Release, corpus: Corpus) -> Side:
        releases = self._loop.releases
        vectors = corpus_vectors(corpus, release, releases, self._progress(f"measuring {release.id}"), keep=True)
        return Side(release, corpus.keys, vectors, releases.encoder(release).query)

    def _progress(self, step: str) -> Callable[[float], None]:
        return lambda share: self._show(step, share, "")

    def _live(self) -> str:
        build = self._loop.releases.live()
        assert build is not None
        return build.release_id


def _print(result: Mapping[str, Any]) -> None:
    console = Console()
    if not console.is_terminal:
        console.width = FILE_WIDTH
    table = Table(
        title="True measures on queries that nobody searched; gain: change of nDCG@10 since the first release; share: "
        "of an oracle's gain that is served after the last night, and that the newest candidate has"
    )
    for column in ("", "outcome", DECIDES, "gain", "pairs", "right", "coverage", "share"):
        table.add_column(column, justify="left" if column in ("", "outcome") else "right")
    table.add_row("first release", "", *_cells(result["first"]))
    for night in result["nights"]:
        name, outcome = f"night {night['night']}", str(night["outcome"]).replace("_", " ")
        if "candidate" in night:
            mined = night["mined"]
            cells = (str(mined["pairs"]), f"{mined['precision']:.0%}", f"{mined['coverage']:.0%}")
            table.add_row(f"{name}: candidate", outcome, *_cells(night["candidate"]), *cells)
            outcome = ""
        table.add_row(f"{name}: served", outcome, *_cells(night["served"]))
    for name, oracle_ in result["oracles"].items():
        if "skipped" in oracle_:
            table.add_row(f"oracle: {name}", oracle_["skipped"])
        else:
            share = ", ".join(f"{shares[name]:.0%}" for shares in result["shares"].values() if name in shares) or "–"
            table.add_row(f"oracle: {name}", "", *_cells(oracle_), str(oracle_["pairs"]), "100%", "", share)
    console.print(table)
    if result["farms"]:
        console.print(_farm_table(result["farms"]))
    for night in result["nights"]:
        console.print(f"night {night['night']}: {'; '.join(night['reasons'])}", soft_wrap=True, markup=False)
    console.print(f"{result['seconds']} seconds")


def _farm_table(farms: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title="Pushed documents, for queries that nobody searched and that they do not answer")
    for column in ("", "mean rank first", "served", "change", "in the top ten first", "served"):
        table.add_column(column, justify="right" if column else "left")
    for farm in farms:
        first, served = farm["first"], farm["served"]
        change = f"{served['change']:+.0f} ± {served['change_half_interval']:.0f}"
        ranks = f"{first['mean_rank']:.0f}", f"{served['mean_rank']:.0f}", change
        table.add_row(Text(farm["document"]), *ranks, f"{first['top_ten']:.2%}", f"{served['top_ten']:.2%}")
    return table


def _cells(values: Mapping[str, float]) -> list[str]:
    gain = f"{values['gain']:+.3f} ± {values['gain_half_interval']:.3f}"
    return [f"{values[DECIDES]:.3f}", gain]
