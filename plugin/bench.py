"""`clickloop bench`: the project's benchmarks. docs/benchmarks.md holds what they measured."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table

from ..retriever.errors import InvalidInput
from ..trainer.lives import NARROW, WIDE, Differences, World, power, wrong_lives
from ..trainer.recipe import Promotion

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
    "half of the holdout reused, correlated": World(reused=0.5, kept=0.7, people=150),
    "the same, small differences": World(NARROW, reused=0.5, kept=0.7, people=150),
    "clusters of 5": World(Differences(cluster=5), blocks=4, people=150),
    "5 % of nights really better": World(better=GAIN, better_nights=0.05, people=150),
    "30 % of nights really better": World(better=GAIN, better_nights=0.3, people=150),
}
GAINS = {
    "+.03, sd .26, 2,000 queries": World(better=GAIN, blocks=40),
    "+.03, sd .26, 1,000 queries": World(better=GAIN),
    "+.015, sd .10, 1,000 queries": World(NARROW, replace(NARROW, mean=0.015)),
    "+.01, sd .10, 500 queries": World(NARROW, replace(NARROW, mean=0.01), blocks=10),
}
Rows = Mapping[str, Mapping[str, float]]


def gate_errors(say: Callable[[str], None]) -> Rows:
    """Share of lives in which the gate ever promoted a model that is not better."""
    rows = {}
    for name, world in WORLDS.items():
        say(name)
        shares = wrong_lives(world, DAYS, LIVES, DIALS)
        rows[name] = {f"{days} nights": share for days, share in zip(DAYS, shares, strict=True)}
    return rows


def gate_power(say: Callable[[str], None]) -> Rows:
    """Share of lives in which a really better model, trained anew until it is followed, was promoted by a night."""
    rows = {}
    for name, world in GAINS.items():
        for dry in DRY:
            label = f"{name}, after {dry} nights without gain" if dry else name
            say(label)
            shares = power(world, dry, NIGHTS, LIVES, DIALS)
            rows[label] = {f"night {night}": share for night, share in zip(NIGHTS, shares, strict=True)}
    return rows


BENCHMARKS: dict[str, Callable[[Callable[[str], None]], Rows]] = {"gate-errors": gate_errors, "gate-power": gate_power}


def bench(names: list[str], json: Path | None) -> None:
    """Runs and prints the benchmarks of these names, or all. Raises InvalidInput for an unknown name."""
    console = Console(stderr=True)
    for name in names:
        if name not in BENCHMARKS:
            raise InvalidInput("NAME", name, f"use some of {', '.join(BENCHMARKS)}, or none for all")
    results: dict[str, Any] = {}
    for name in names or list(BENCHMARKS):
        run, started = BENCHMARKS[name], time.monotonic()
        with console.status(name) as status:
            results[name] = run(lambda what, name=name, status=status: status.update(f"{name}: {what}"))  # type: ignore[misc]
        _print(name, str(run.__doc__), results[name])
        console.print(f"{name}: {time.monotonic() - started:.0f} s")
    if json is not None:
        json.write_bytes(orjson.dumps(results, option=orjson.OPT_INDENT_2))


def _print(name: str, about: str, rows: Rows) -> None:
    table = Table(title=f"{name}: {about}")
    table.add_column("")
    for column in next(iter(rows.values())):
        table.add_column(column, justify="right")
    for label, values in rows.items():
        table.add_row(label, *(f"{value:.2%}" for value in values.values()))
    Console().print(table)
