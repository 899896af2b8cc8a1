"""`clickloop simulate`: the real loop on a BEIR folder, with simulated people whose true wishes are known.

Documents, service, log and nights are those of `clickloop serve` and `clickloop train`; only the people are simulated.
True relevances make them click, and measure afterwards; no part of the loop sees them.
"""

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table

from ..retriever.encoder import open_encoder
from ..retriever.errors import ClickLoopError
from ..retriever.model import find_model
from ..retriever.releases import write_whole
from ..retriever.types import Event, Release, Who
from ..trainer.contest import Side
from ..trainer.corpus import Corpus, corpus_vectors, read_corpus
from ..trainer.gate import INTERVAL_Z
from ..trainer.judge import Tonight
from ..trainer.lessons import Skipped
from ..trainer.mine import Triplet
from ..trainer.nightly import training_start
from ..trainer.people import People
from ..trainer.snapshot import cluster_of
from ..trainer.split import draw
from ..trainer.truth import DECIDES, PerQuery, measure, ranked_by, taught_by
from .collection import Question, read_documents, read_split
from .ingest import index
from .loop import ClickLoop
from .progress import Steps
from .settings import Settings, read_settings

MARK = "simulation.txt"  # tells a folder that a simulation made
EVENTS = 500  # sent together
QUICK: Mapping[str, Any] = {"nights": 2, "sessions": 1_500, "oracles": False, "test_queries": 500}
BOT_SESSIONS = 200  # searches a robot makes a day
BOT_CLICKS = 0.5  # chance that a robot clicks a result
Show = Callable[[str, float, str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """`sessions` a night, each one search by somebody else; `bots` is the share of them made by robots that click
    whatever they are shown; `test_queries` are measured on, at most.
    """

    nights: int = 3
    sessions: int = 4_000
    position_bias: float = 1.0
    noise: float = 0.1
    bots: float = 0.0
    senseless: bool = False
    oracles: bool = True
    test_queries: int | None = None
    seed: int = 0


@dataclass(slots=True)
class Known:
    """What the simulation knows and the loop does not: pairs of a query's text and a document's id, over all nights.

    Robots do not count.
    """

    searched: set[str] = field(default_factory=set)
    shown: set[tuple[str, str]] = field(default_factory=set)
    clicked: set[tuple[str, str]] = field(default_factory=set)


@dataclass(slots=True)
class Candidate:
    """What a night trained, on which pairs of a query's text and a document's id."""

    release: str
    pairs: list[tuple[str, str]]
    tonight: Tonight


def simulate(folder: Path, data_dir: Path, plan: Plan, json: Path | None) -> dict[str, Any]:
    """Lives the nights of the plan in `data_dir`, which is emptied first, and returns what is written to `json`."""
    documents = read_documents(folder)
    people, test = (_merged(read_split(folder, split, documents)) for split in ("train", "test"))
    if plan.test_queries is not None:
        test = Random(plan.seed).sample(test, min(plan.test_queries, len(test)))
    console, started = Console(stderr=True), time.monotonic()
    settings = read_settings(data_dir=data_dir)
    console.print(
        f"{len(documents)} documents; {len(people)} queries that simulated people search, {len(test)} that only measure"
    )
    with Steps() as steps:
        _prepare(folder, settings, steps.show)
        life = _Life(settings, people, test, plan, steps.show)
        try:
            nights = [life.night(number) for number in range(1, plan.nights + 1)]
            oracles = life.oracles() if plan.oracles else {}
        finally:
            life.close()
    result = {
        "folder": folder.name,
        "plan": asdict(plan),
        "recipe": settings.recipe.model_dump(mode="json"),
        "first": life.first(),
        "nights": nights,
        "oracles": oracles,
        "seconds": round(time.monotonic() - started),
    }
    if json is not None:
        json.write_bytes(orjson.dumps(result, option=orjson.OPT_INDENT_2))
    _print(result)
    return result


def _merged(questions: Sequence[Question]) -> list[Question]:
    """One question for each text."""
    right: dict[str, frozenset[str]] = {}
    for question in questions:
        right[question.text] = right.get(question.text, frozenset()) | question.right
    return [Question(text, ids) for text, ids in sorted(right.items())]


def _prepare(folder: Path, settings: Settings, show: Show) -> None:
    """A data folder with the documents indexed; copied from the cache where an earlier simulation made the same."""
    data_dir = settings.data_dir
    if data_dir.exists() and any(data_dir.iterdir()) and not (data_dir / MARK).exists():
        raise ClickLoopError(f"--data-dir: {str(data_dir)!r} is not a folder of an earlier simulation; name another")
    shutil.rmtree(data_dir, ignore_errors=True)
    if settings.database_url is not None or settings.qdrant.url is not None:
        raise ClickLoopError("simulate: database_url and qdrant.url must not be set: a simulation fills and drops them")
    prepared = _cache(_key(folder, settings))
    if not prepared.exists():
        loop = ClickLoop(settings)
        index(loop, loop.documents.put(read_documents(folder)), show)
        loop.close()
        partial = prepared.with_name(f"{prepared.name}.{os.getpid()}")
        shutil.copytree(data_dir, partial)
        shutil.rmtree(data_dir)
        try:
            partial.rename(prepared)
        except OSError:  # another simulation was faster
            shutil.rmtree(partial)
    shutil.copytree(prepared, data_dir)
    (data_dir / MARK).write_text("made by `clickloop simulate`, which empties this folder when it starts\n")


def _cache(name: str) -> Path:
    folder = Path(os.environ.get("XDG_CACHE_HOME", "") or Path.home() / ".cache") / "clickloop" / "simulate"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / name


def _key(folder: Path, settings: Settings) -> str:
    """Of everything that the first index depends on, this program included."""
    found = hashlib.sha256((folder / "corpus.jsonl").read_bytes())
    model = find_model(settings.model)
    weights = [path.stat() for path in sorted(Path(model).rglob("*")) if path.is_file()] if Path(model).is_dir() else []
    found.update(repr((model, settings.max_tokens, [(stat.st_size, stat.st_mtime_ns) for stat in weights])).encode())
    return _with_code(found, "retriever")


class _Life:
    """The service, its people, and what is known about both."""

    def __init__(
        self, settings: Settings, people: Sequence[Question], test: Sequence[Question], plan: Plan, show: Show
    ) -> None:
        self._test, self._plan, self._show = test, plan, show
        self._recipe = settings.recipe
        self._right = {question.text: question.right for question in people}
        self._texts = sorted(self._right)
        self._random = Random(plan.seed)
        self._known = Known()
        held_out = self._recipe.split.holdout + self._recipe.split.development
        self._teaching = {text for text in self._texts if draw(cluster_of(text)) >= held_out}
        self._candidate: Candidate | None = None
        self._scores: dict[str, PerQuery] = {}  # release → true measures
        self._loop = ClickLoop(settings)
        self._loop.start(nights=False)
        self._loop.wait_until_ready()
        release = self._loop.releases.get(self._live())
        self._first = release.id
        self._measure(release, read_corpus(self._loop.documents))

    def close(self) -> None:
        self._loop.close()

    def first(self) -> dict[str, float]:
        return self._means(self._first)

    def night(self, number: int) -> dict[str, Any]:
        """A day of searches, the night after it, and what is true about both."""
        self._day(number)
        self._candidate = None
        show: Callable[[str, float], None] = lambda step, share: self._show(f"night {number}: {step}", share, "")  # noqa: E731
        run = self._loop.run_night(self._loop.runs.queue("simulation").id, show, self._watch)
        result = {"night": number, "outcome": run.outcome, "reasons": run.reasons, "served": self._means(self._live())}
        candidate: Candidate | None = self._candidate
        if candidate is not None:
            result |= {"candidate": self._means(candidate.release), "mined": self._mined(candidate.pairs)}
        return result | {"timings": run.details.get("timings", {})}

    def oracles(self) -> dict[str, Any]:
        """What the last night's training makes of perfect lessons, each kept for later simulations."""
        candidate = self._candidate
        if candidate is None:
            return {}
        known, right = self._known, self._pairs(self._known.searched)
        lessons = {
            "all that was searched": right,
            "searched by those who teach": self._teachable(right),
            "shown": self._teachable(right & known.shown),
            "clicked": self._teachable(right & known.clicked),
        }
        return {name: self._oracle(name, pairs, candidate.tonight) for name, pairs in lessons.items()}

    # A day

    def _day(self, number: int) -> None:
        plan = self._plan
        people = People(seed=plan.seed * 1000 + number, bias=plan.position_bias, noise=plan.noise)
        bots = max(round(plan.sessions * plan.bots / BOT_SESSIONS), 1)
        events: list[Event] = []
        for session, query in enumerate(people.queries(plan.sessions, len(self._texts))):
            text, bot = self._texts[query], self._random.random() < plan.bots
            who = Who(client_id=f"bot {number}-{self._random.randrange(bots)}" if bot else f"{number}-{session}")
            answer = self._loop.search(text, who=who)
            shown = [hit.id for hit in answer]
            if bot:
                ranks = [rank for rank in range(1, len(shown) + 1) if self._random.random() < BOT_CLICKS]
            elif plan.senseless:
                ranks = people.senseless_clicks(shown)
            else:
                ranks = people.clicks(shown, self._right[text])
            if not bot:
                self._known.searched.add(text)
                self._known.shown.update((text, id_) for id_ in shown)
                self._known.clicked.update((text, shown[rank - 1]) for rank in ranks)
            for rank in ranks:
                event_id = f"{answer.query_id}-{rank}"
                events.append(Event(event_id, answer.query_id, "click", shown[rank - 1], rank, who, None, time.time()))
            if len(events) >= EVENTS:
                self._loop.add_events(events)
                events = []
            self._show(f"night {number}: people search", (session + 1) / plan.sessions, "")
        self._loop.add_events(events)

    # Truth

    def _watch(self, tonight: Tonight, _lessons: Sequence[Triplet], release: Release) -> None:
        """Measures the candidate; its vectors are kept, so that judging it afterwards costs nothing more."""
        lessons = tonight.lessons
        pairs = [(lessons.wordings[pair.query], pair.document_id) for pair in lessons.training]
        self._measure(release, tonight.corpus)
        self._candidate = Candidate(release.id, pairs, tonight)

    def _measure(self, release: Release, corpus: Corpus) -> None:
        releases = self._loop.releases
        progress = self._progress(f"measuring {release.id}")
        vectors = corpus_vectors(corpus, release, releases, progress, keep=True)
        side = Side(release, corpus.keys, vectors, open_encoder(releases.folder(release.id), release).query)
        self._score(release.id, [stored.document.id for stored in corpus.documents], side)

    def _score(self, name: str, ids: Sequence[str], side: Side) -> None:
        ranked = ranked_by(ids, side.vectors, side.queries([question.text for question in self._test]))
        self._scores[name] = measure(ranked, [question.right for question in self._test])

    def _means(self, name: str) -> dict[str, float]:
        """Each measure, and the change of the deciding one since the first release with its 95 % interval."""
        scores = self._scores[name]
        means = {measure_: float(values.mean()) for measure_, values in scores.items()}
        change = scores[DECIDES] - self._scores[self._first][DECIDES]
        half = INTERVAL_Z * float(change.std(ddof=1)) / len(change) ** 0.5 if len(change) > 1 else 0.0
        return means | {"gain": float(change.mean()), "gain_half_interval": half}

    def _mined(self, pairs: Sequence[tuple[str, str]]) -> dict[str, float]:
        """How many of the mined pairs are right, and how many of the right ones that teachers clicked were mined."""
        known, found = self._known, set(pairs)
        right = self._pairs(known.searched)
        clicked = self._teachable(known.clicked)
        return {
            "pairs": len(found),
            "precision": len(found & right) / max(len(found), 1),
            "coverage": len(found & right & clicked) / max(len(right & clicked), 1),
            "clicked_pairs": len(clicked),
            "clicked_precision": len(clicked & right) / max(len(clicked), 1),
        }

    def _pairs(self, texts: Collection[str]) -> set[tuple[str, str]]:
        return {(text, id_) for text in texts for id_ in self._right[text]}

    def _teachable(self, pairs: set[tuple[str, str]]) -> set[tuple[str, str]]:
        return {pair for pair in pairs if pair[0] in self._teaching}

    def _oracle(self, name: str, pairs: set[tuple[str, str]], tonight: Tonight) -> dict[str, Any]:
        questions, corpus = [question.text for question in self._test], tonight.corpus
        path = _cache(self._oracle_key(pairs, tonight) + ".json")
        if path.exists():
            ranked = orjson.loads(path.read_bytes())
        else:
            start = training_start(self._loop.releases, tonight.champion.release, self._recipe)
            model = self._loop.releases.folder(start.id) / "model"
            progress = self._progress(f"oracle: {name}")
            try:
                ranked = taught_by(
                    pairs, tonight.lessons, corpus, tonight.champion, model, self._recipe, questions, progress
                )
            except Skipped as reason:
                return {"pairs": len(pairs), "skipped": str(reason)}
            write_whole(path, orjson.dumps(ranked))
        self._scores[name] = measure(ranked, [question.right for question in self._test])
        return {"pairs": len(pairs), **self._means(name)}

    def _oracle_key(self, pairs: set[tuple[str, str]], tonight: Tonight) -> str:
        """Of everything that the training and the measuring depend on."""
        recipe, release = self._recipe, tonight.champion.release
        start = training_start(self._loop.releases, release, recipe)
        found = hashlib.sha256(orjson.dumps([sorted(each.checksums.items()) for each in (release, start)]))
        found.update(f"{recipe.training!r} {recipe.mining!r} {recipe.seed}".encode())
        for value in (sorted(pairs), [question.text for question in self._test]):
            found.update(orjson.dumps(value))
        for pair in tonight.lessons.development:
            found.update(orjson.dumps((pair.query, pair.document_id)))
        for stored in tonight.corpus.documents:
            found.update(orjson.dumps((stored.key, stored.document.id, stored.document.title, stored.document.text)))
        return "oracle-" + _with_code(found, "trainer")

    def _progress(self, step: str) -> Callable[[float], None]:
        return lambda share: self._show(step, share, "")

    def _live(self) -> str:
        build = self._loop.releases.live()
        assert build is not None
        return build.release_id


def _print(result: Mapping[str, Any]) -> None:
    console = Console()
    table = Table(
        title="True measures on queries that nobody searched; gain: change of nDCG@10 since the first release"
    )
    for column in ("", "outcome", DECIDES, "gain", "pairs", "right", "coverage"):
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
    for name, oracle in result["oracles"].items():
        if "skipped" in oracle:
            table.add_row(f"oracle: {name}", oracle["skipped"])
        else:
            table.add_row(f"oracle: {name}", "", *_cells(oracle), str(oracle["pairs"]), "100%")
    console.print(table)
    for night in result["nights"]:
        console.print(f"night {night['night']}: {'; '.join(night['reasons'])}", soft_wrap=True, markup=False)
    console.print(f"{result['seconds']} seconds")


def _cells(values: Mapping[str, float]) -> list[str]:
    gain = f"{values['gain']:+.3f} ± {values['gain_half_interval']:.3f}"
    return [f"{values[DECIDES]:.3f}", gain]


def _with_code(found: "hashlib._Hash", layer: str) -> str:
    """The digest, which also changes with the program."""
    for path in sorted((Path(__file__).parent.parent / layer).rglob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()[:32]
