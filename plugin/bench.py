"""`clickloop bench`: the project's benchmarks. docs/benchmarks.md holds what they measured."""

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from rich.console import Console
from rich.table import Table

from ..retriever.errors import InvalidInput
from ..retriever.model import find_model
from ..retriever.serving import TEMPLATE, render
from ..retriever.shadow import ShadowIndex
from ..trainer.contenders import contenders
from ..trainer.evaluate import DECIDES
from ..trainer.lives import NARROW, WIDE, Differences, Rare, World, power, wrong_lives
from ..trainer.mined import KEPT, THRESHOLDS, Mined, mine, simulated
from ..trainer.people import KINDS
from ..trainer.recipe import Promotion, Recipe
from ..trainer.rehearsal import Habits, Lived, Rehearsal
from ..trainer.sample import INTERVAL_Z
from ..trainer.snapshot import cluster_of
from ..trainer.split import draw
from . import bench_encoding, bench_index, plots
from .bench_events import bench_events
from .bench_mining import mining
from .bench_search import measured, table_of
from .bench_training import training
from .collection import read_beir
from .demo import demo_collection
from .progress import Status
from .settings import Settings, own_settings

LIVES = 2_000
DAYS = (365, 730)
NIGHTS = (1, 7, 14)  # by which a gain was found
DRY = (0, 365)  # nights without any gain before it
# The gate alone, without the rule on the size of a gain: every promotion must be earned by evidence.
DIALS = Promotion(min_effect=0)
GAIN = replace(WIDE, mean=0.03)
WORLDS = {
    "no gain": World(people=150),
    "no gain, small differences": World(NARROW, people=150),
    "worse by .005": World(replace(WIDE, mean=-0.005), people=150),
    "left-skewed, no gain": World(Differences(skewed=True), people=150),
    "the same, 100 queries a night": World(Differences(skewed=True), blocks=2, people=150),
    **{
        f"worse by .003, its losses seldom clicked, {50 * blocks} queries a night": World(Rare(), blocks=blocks)
        for blocks in (1, 2, 4)
    },
    "half of the holdout reused, correlated": World(reused=0.5, kept=0.7, people=150),
    "the same, small differences": World(NARROW, reused=0.5, kept=0.7, people=150),
    "clusters of 5": World(Differences(cluster=5), blocks=4, people=150),
    "half of all people ask the query of the day": World(people=1000, trend=0.5),
    "5 % of nights really better": World(better=GAIN, better_nights=0.05, people=150),
    "30 % of nights really better": World(better=GAIN, better_nights=0.3, people=150),
}
GAINS = {
    "+.03, sd .26, 2,000 queries": World(better=GAIN, blocks=40),
    "+.03, sd .26, 1,000 queries": World(better=GAIN),
    "+.015, sd .10, 1,000 queries": World(NARROW, replace(NARROW, mean=0.015)),
    "+.01, sd .10, 500 queries": World(NARROW, replace(NARROW, mean=0.01), blocks=10),
}
Rows = Mapping[str, Mapping[str, Any]]
TRAFFIC = (0.0, 0.05, 0.3)  # shares of evaluation traffic
OFFERED_NIGHTS = 5
TEACHING = 0.75  # queries whose cluster draws more than this teach the contenders, and nobody searches them
HABITS = {
    "looks at rank r with r^-.5, 20 results, 5 % noise": Habits(shown=20, bias=0.5, noise=0.05),
    "looks at rank r with 1/r, 10 results, 10 % noise": Habits(),
}


LOGS = 3  # simulated for each kind of people
LOG_SEARCHES = 12_000  # three nights
LOG_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Given:
    """What a benchmark may use: a BEIR folder (default: the demo's documents), and where to draw."""

    data: Path | None
    plots: Path | None
    peers: Path | None = None  # a Python with the packages of bench-peers.txt


def gate_errors(say: Callable[[str], None], _given: Given) -> Rows:
    """Share of lives in which the gate ever promoted a model that is not better."""
    rows = {}
    for name, world in WORLDS.items():
        shares = wrong_lives(world, DAYS, LIVES, DIALS, partial(_lived, say, name))
        rows[name] = {f"{days} nights": share for days, share in zip(DAYS, shares, strict=True)}
    return rows


def gate_power(say: Callable[[str], None], _given: Given) -> Rows:
    """Share of lives in which a really better model, trained anew until it is followed, was promoted by a night."""
    rows = {}
    for name, world in GAINS.items():
        for dry in DRY:
            label = f"{name}, after {dry} nights without gain" if dry else name
            shares = power(world, dry, NIGHTS, LIVES, DIALS, partial(_lived, say, label))
            rows[label] = {f"night {night}": share for night, share in zip(NIGHTS, shares, strict=True)}
    return rows


def _lived(say: Callable[[str], None], world: str, lives: int) -> None:
    say(f"{world}: {lives:,} of {LIVES:,} lives")


def gate_clicks(say: Callable[[str], None], given: Given) -> Rows:
    """What the whole gate makes of models of known quality within five nights of 4,000 searches."""
    collection = demo_collection() if given.data is None else read_beir(given.data)
    documents = [render(TEMPLATE, document) for document in collection.documents]
    row = {document.id: number for number, document in enumerate(collection.documents)}
    asked = list({question.text: question for question in collection.questions}.values())
    right = [frozenset(row[id_] for id_ in question.right) for question in asked]
    draws = [draw(cluster_of(question.text)) for question in asked]
    pairs = [(q, d) for q, number in enumerate(draws) if number >= TEACHING for d in sorted(right[q])]
    searched = [q for q, number in enumerate(draws) if number < TEACHING]
    queries = [question.text for question in asked]
    model = find_model(Settings.model_fields["model"].default)
    champion, *others = [
        replace(contender, queries=contender.queries[searched])
        for contender in contenders(model, documents, queries, pairs, say)
    ]
    rows: dict[str, dict[str, Any]] = {}
    people = [queries[q] for q in searched], [right[q] for q in searched]
    for which, (habit, habits) in enumerate(HABITS.items()):
        stage = Rehearsal(len(documents), *people, champion, Recipe(), habits, seed=1)
        for traffic in TRAFFIC:
            lives = []
            for other in others:
                say(f"{other.name}, {traffic:.0%} evaluation traffic, {habit}")
                lives.append(stage.live(other, OFFERED_NIGHTS, traffic))
            if given.plots is not None:
                path = given.plots / f"gate-clicks-{which + 1}-{round(100 * traffic)}-traffic.svg"
                path.write_text(plots.estimates([_point(life) for life in lives], DECIDES), encoding="utf-8")
            column = f"{habit}; {traffic:.0%} traffic"
            for life in sorted(lives, key=lambda life: life.true):
                found = life.estimates[-1]
                fate = "not promoted" if life.night is None else f"night {life.night}"
                cells = rows.setdefault(life.name, {"true": f"{life.true:+.3f}"})
                cells[column] = f"{found.mean:+.3f} ± {found.error:.3f}, {fate}"
    return rows


def _point(life: Lived) -> tuple[float, float, float, bool]:
    found = life.estimates[-1]
    return life.true, found.mean, INTERVAL_Z * found.error, life.night is not None


def click_models(say: Callable[[str], None], given: Given) -> Rows:
    """Precision / coverage of pairs mined from simulated clicks, by posterior from which they are taken."""
    collection = demo_collection() if given.data is None else read_beir(given.data)
    documents = [render(TEMPLATE, document) for document in collection.documents]
    ids = [document.id for document in collection.documents]
    asked = list({question.text: question for question in collection.questions}.values())
    searched = [question for question in asked if draw(cluster_of(question.text)) < TEACHING]
    queries, right = [question.text for question in searched], [question.right for question in searched]
    base = next(contenders(find_model(Settings.model_fields["model"].default), documents, queries, [], say))
    shadow = ShadowIndex(np.arange(len(ids)), base.documents)
    ranked = [
        [(ids[row], float(score)) for row, score in zip(*found, strict=True)]
        for found in zip(*shadow.query(base.queries, LOG_SHOWN), strict=True)
    ]
    rows: dict[str, dict[str, str]] = {}
    for kind in KINDS:
        found: dict[str, list[Mined]] = {}
        for seed in range(LOGS):
            say(f"people of kind {kind}, log {seed + 1} of {LOGS}")
            for mined in mine(simulated(kind, ranked, right, LOG_SEARCHES, seed), right):
                found.setdefault("chosen" if mined.chosen else mined.model, []).append(mined)
        for model, logs in found.items():
            names = f" ({', '.join(mined.model for mined in logs)})" if model == "chosen" else ""
            rows[f"{kind} people, {model}{names}"] = _mined(logs)
    return rows


def searching(say: Callable[[str], None], given: Given) -> Rows:
    """Searches over HTTP with the log on, each query once or drawn by Zipf: milliseconds, and ratios within the run."""
    collection = demo_collection() if given.data is None else read_beir(given.data)
    corpus = None if given.data is None else given.data / "corpus.jsonl"
    rows, notes = measured(collection, corpus, given.peers, say)
    found = table_of(rows)
    if given.plots is not None:
        bars = [(name, float(cell["p50"]), float(cell["p99"])) for name, cell in found.items()]
        (given.plots / "search.svg").write_text(plots.latencies(bars), encoding="utf-8")
    return found | {name: {"p50": value} for name, value in notes.items()}


def eventing(say: Callable[[str], None], given: Given) -> Rows:
    """Batches of 100 events, acknowledged after their commit, by a service on one core that is killed at the end."""
    return bench_events(demo_collection() if given.data is None else read_beir(given.data), say)


def _mined(logs: list[Mined]) -> dict[str, str]:
    """Means over the logs."""
    cells = {"all clicked": f"{np.mean([mined.naive for mined in logs]):.3f}"}
    for number, threshold in enumerate(THRESHOLDS):
        precision = np.mean([mined.precision[number] for mined in logs])
        coverage = np.mean([mined.coverage[number] for mined in logs])
        cells[f"≥ {threshold}"] = f"{precision:.3f} / {coverage:.3f}"
    cells[f"precision at {KEPT:.0%}"] = f"{np.mean([mined.at_kept for mined in logs]):.3f}"
    cells["area"] = f"{np.mean([mined.area for mined in logs]):.3f}"
    gains = [np.mean([mined.gain_right for mined in logs]), np.mean([mined.gain_wrong for mined in logs])]
    cells["gain of right / wrong"] = f"{gains[0]:.2f} / {gains[1]:.2f}"
    return cells


BENCHMARKS: dict[str, Callable[[Callable[[str], None], Given], Rows]] = {
    "gate-errors": gate_errors,
    "gate-power": gate_power,
    "gate-clicks": gate_clicks,
    "clicks": click_models,
    "mining": mining,
    "training": training,
    "export": bench_encoding.export,
    "encoding": bench_encoding.encoding,
    "ingest": bench_encoding.ingest,
    "index": bench_index.index,
    "index-million": bench_index.index_million,
    "search": searching,
    "events": eventing,
}


def bench(names: list[str], json: Path | None, given: Given) -> None:
    """Runs and prints the benchmarks of these names, or all. Raises InvalidInput for an unknown name."""
    own_settings()  # what cannot be used is refused now, not hours later
    for name in names:
        if name not in BENCHMARKS:
            raise InvalidInput("NAME", name, f"use some of {', '.join(BENCHMARKS)}, or none for all")
    for folder in (given.plots, None if json is None else json.parent):
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {}
    for name in names or list(BENCHMARKS):
        run, started = BENCHMARKS[name], time.monotonic()
        with Status(name) as status:
            results[name] = run(status.say, given)
        _print(name, str(run.__doc__), results[name])
        print(f"{name}: {time.monotonic() - started:.0f} s", file=sys.stderr)
        if json is not None:
            json.write_bytes(orjson.dumps(results, option=orjson.OPT_INDENT_2))


def _print(name: str, about: str, rows: Rows) -> None:
    table = Table(title=f"{name}: {about}")
    table.add_column("")
    columns = list(next(iter(rows.values())))
    for column in columns:
        table.add_column(column, justify="right")
    for label, values in rows.items():
        cells = [values.get(column, "") for column in columns]
        table.add_row(label, *(f"{cell:.2%}" if isinstance(cell, float) else cell for cell in cells))
    Console().print(table)
