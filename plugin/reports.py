"""Reports of nightly runs for people: one self-contained page each, and the list of all."""

import datetime
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jinja2 import ChainableUndefined, Environment, FileSystemLoader

from ..trainer import report
from ..trainer.runs import Run
from . import plots
from .schemas import run_json

OUTCOMES = {
    "promoted": "promoted: the new model answers",
    "rejected": "rejected: the present model stays",
    "not_enough_evidence": "not enough evidence yet: the present model stays",
    "awaiting_approval": "waits for an admin's approval",
    "skipped": "skipped: there was not enough to learn from",
    "failed": "failed",
}


class Reports:
    """Reads what the trainer wrote below `folder`; never computes a result of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pages = Environment(
            loader=FileSystemLoader(Path(__file__).parent / "templates"),
            autoescape=True,
            undefined=ChainableUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._pages.filters["time"] = _time
        self._pages.filters["signed"] = lambda value: f"{value:+.4f}"

    def data(self, run: Run) -> dict[str, Any]:
        """The report as JSON: the run as it is now, with what the night wrote."""
        written = report.read(self._folder / run.id) or {}
        return {**run_json(run), "evidence": written.get("evidence"), "curve": written.get("curve", [])}

    def html(self, run: Run) -> str:
        data = self.data(run)
        evidence, metrics = data["evidence"], run.details.get("metrics", {})
        drawings = {}
        if evidence:
            drawings["differences"] = plots.differences(evidence["deltas"], evidence["metric"])
            estimate = evidence["estimate"]
            if metrics.get("interval"):
                drawings["interval"] = plots.interval(
                    estimate["mean"], estimate["low"], estimate["high"], evidence["metric"]
                )
        if data["curve"]:
            drawings["curve"] = plots.training_curve(data["curve"])
        page = self._pages.get_template("report.html")
        return page.render(
            run=asdict(run),
            outcome=OUTCOMES.get(run.outcome or "", run.state),
            metrics=metrics,
            evidence=evidence,
            drawings=drawings,
        )

    def index(self, runs: Sequence[Run]) -> str:
        rows = [{**asdict(run), "says": OUTCOMES.get(run.outcome or "", run.state)} for run in runs]
        return self._pages.get_template("runs.html").render(runs=rows)


def _time(moment: float | None) -> str:
    if moment is None:
        return "–"
    return datetime.datetime.fromtimestamp(moment, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
