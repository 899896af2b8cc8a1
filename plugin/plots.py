"""SVG drawings for reports: text stays text, nothing is fetched, nothing runs."""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, GAIN, LOSS, QUIET = "#1f2933", "#1b7f5c", "#b3402a", "#8a94a0"


def training_curve(curve: Sequence[Mapping[str, float]]) -> Markup:
    """Over epochs, the loss of the training batches and, on an axis of its own, nDCG@10 on the development split."""

    def draw(axes: "Axes") -> None:
        right = axes.twinx()
        for one, name, label, colour in ((axes, "loss", "loss", INK), (right, "nDCG@10", "nDCG@10, development", GAIN)):
            points = [(row["epoch"], row[name]) for row in curve if name in row]
            if points:
                one.plot(*zip(*points, strict=True), "o-" if one is right else "-", color=colour)
            one.set_ylabel(label, color=colour)
        axes.set_xlabel("epoch")

    return _svg(draw, "training curve", (6, 2.6))


def differences(deltas: Sequence[float], metric: str) -> Markup:
    """Every judged query's change, sorted: losses left, gains right."""

    def draw(axes: "Axes") -> None:
        ordered = sorted(deltas)
        colours = [LOSS if delta < 0 else GAIN for delta in ordered]
        axes.bar(range(len(ordered)), ordered, color=colours, width=1.0)
        axes.axhline(0, color=INK, linewidth=0.6)
        axes.set_xlabel("judged queries, sorted")
        axes.set_ylabel(f"change of {metric}")
        reach = max([1.0, *map(abs, ordered)]) + 0.05  # corrected gains can go beyond 1
        axes.set_ylim(-reach, reach)

    return _svg(draw, f"change of {metric} per query", (6, 2.6))


def interval(estimate: float, low: float, high: float, metric: str) -> Markup:
    """The estimated change with its 95 % interval."""

    def draw(axes: "Axes") -> None:
        axes.axvline(0, color=QUIET, linewidth=0.8)
        axes.plot([low, high], [0, 0], color=INK, linewidth=2)
        axes.plot([estimate], [0], "o", color=GAIN if estimate > 0 else LOSS)
        axes.set_yticks([])
        axes.set_xlabel(f"change of {metric}, candidate minus champion, 95 % interval")

    return _svg(draw, f"estimated change of {metric}", (6, 1.2))


def estimates(points: Sequence[tuple[float, float, float, bool]], metric: str) -> Markup:
    """True against estimated gain: (true, estimate, its 95 % half-width, whether it was promoted) a model."""

    def draw(axes: "Axes") -> None:
        true = [point[0] for point in points]
        axes.plot([min(true), max(true)], [min(true), max(true)], color=QUIET, linewidth=0.8)
        axes.axhline(0, color=QUIET, linewidth=0.5)
        axes.axvline(0, color=QUIET, linewidth=0.5)
        for colour, chosen in ((GAIN, True), (LOSS, False)):
            some = [point[:3] for point in points if point[3] == chosen]
            label = "promoted" if chosen else "not promoted"
            if some:
                x, y, error = zip(*some, strict=True)
                axes.errorbar(x, y, error, fmt="o", markersize=4, linewidth=0.8, color=colour, label=label)
        axes.set_xlabel(f"true change of {metric}")
        axes.set_ylabel("estimated from clicks")
        axes.legend(frameon=False)

    return _svg(draw, f"true and estimated change of {metric}", (6, 4))


def latencies(rows: Sequence[tuple[str, float, float]]) -> Markup:
    """Name, median and 99th percentile of each in milliseconds, on a logarithmic axis."""

    def draw(axes: "Axes") -> None:
        for number, (_, median, late) in enumerate(reversed(rows)):
            axes.plot([median, late], [number, number], color=QUIET, linewidth=2)
            axes.plot([median], [number], "o", color=GAIN)
        axes.set_yticks(range(len(rows)), [name for name, _, _ in reversed(rows)])
        axes.set_xscale("log")
        axes.set_xlabel("milliseconds: median (dot) to 99th percentile")

    return _svg(draw, "time of a search", (7, 0.5 + 0.24 * len(rows)))


def _svg(draw: Callable[["Axes"], None], title: str, size: tuple[float, float]) -> Markup:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": title, "font.size": 9}):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots()
        draw(axes)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    drawing = out.getvalue()
    drawing = drawing[drawing.index("<svg") :]
    drawing = re.sub(r"<metadata>.*?</metadata>", "", drawing, flags=re.DOTALL)
    # The numbers and labels come from us, never from queries or documents.
    return Markup(drawing)
