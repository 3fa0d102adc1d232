"""Draw plots as SVG. The same figures give the same bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from bench.measuring import RESULTS, Target, sized

PLOTS: Final = sized(Path("spec/benchmarks"), RESULTS / "benchmarks")

mpl.rcParams.update({"svg.hashsalt": "unwedged", "svg.fonttype": "none", "font.size": 10})


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a plot: the seconds for each position on the horizontal axis."""

    label: str
    seconds: Sequence[float]


def lines(name: str, axis: str, places: Sequence[float], plotted: Sequence[Line], levels: Mapping[str, float]) -> str:
    """Draw lines and horizontal levels on logarithmic axes. Return the path of the plot for the report."""
    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    axes = figure.subplots()
    for line, marker in zip(plotted, "os^Dv", strict=False):
        axes.plot(places, [1000 * seconds for seconds in line.seconds], marker=marker, label=line.label)
    for label, seconds in levels.items():
        axes.axhline(1000 * seconds, color="0.5", linestyle="--", linewidth=1)
        axes.annotate(label, (places[0], 1000 * seconds), xytext=(0, 3), textcoords="offset points", color="0.35")
    axes.set(xscale="log", yscale="log", xlabel=axis, ylabel="milliseconds")
    axes.xaxis.set_major_formatter("{x:,g}")
    axes.yaxis.set_major_formatter("{x:,g}")
    axes.grid(visible=True, which="major", color="0.9")
    axes.legend(loc="best", frameon=False)
    return _saved(figure, name)


def ratios(name: str, targets: Sequence[Target]) -> str:
    """Draw each ratio with its quartiles and its target. Return the path of the plot for the report."""
    figure = Figure(figsize=(7.5, 0.6 + 0.38 * len(targets)), layout="constrained")
    axes = figure.subplots()
    places = range(len(targets))
    medians = [target.ratio.median for target in targets]
    below = [target.ratio.median - target.ratio.low for target in targets]
    above = [target.ratio.high - target.ratio.median for target in targets]
    axes.errorbar(medians, places, xerr=(below, above), fmt="o", capsize=3, label="median and quartiles")
    axes.plot(
        [target.most for target in targets], places, "|", color="C3", markersize=14, markeredgewidth=2, label="at most"
    )
    axes.axvline(1, color="0.8", linewidth=1, zorder=0)
    axes.set(xscale="log", xlabel="times as long as what it is compared with")
    axes.set_yticks(places, [target.what for target in targets])
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter("{x:,g}")
    axes.grid(visible=True, axis="x", which="major", color="0.9")
    axes.legend(loc="lower left", frameon=False)
    return _saved(figure, name)


def _saved(figure: Figure, name: str) -> str:
    PLOTS.mkdir(parents=True, exist_ok=True)
    path = PLOTS / f"{name}.svg"
    FigureCanvasSVG(figure).print_svg(path, metadata={"Date": None, "Creator": None})
    return path.relative_to(PLOTS.parent).as_posix()
