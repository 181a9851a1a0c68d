"""Plots of results as SVG whose bytes depend on the numbers alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot, ticker

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#8a5a9e", "#b07000", "#555555")  # told apart by every eye, dark on white
STYLE = {
    "svg.hashsalt": "raydistill",
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
}


def panels(rows: int, columns: int, width: float = 4.6, height: float = 3.2) -> tuple[Any, Any]:
    """A figure and its axes (rows, columns)."""
    pyplot.rcdefaults()
    pyplot.rcParams.update(STYLE)
    return pyplot.subplots(rows, columns, figsize=(width * columns, height * rows), squeeze=False)


def whole_numbers(axes: Any, ticks: Iterable[float]) -> None:
    """A logarithmic x axis with these numbers on it."""
    axes.set_xscale("log")
    at = sorted(set(ticks))
    axes.set_xticks(at, [f"{t:g}" for t in at])
    axes.minorticks_off()


def plain_numbers(axes: Any) -> None:
    """A logarithmic y axis with a few round numbers on it, also where it spans less than a power of ten."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(ticker.MaxNLocator(5))
    axes.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    axes.yaxis.set_minor_locator(ticker.NullLocator())


def label(axes: Any, text: str, x: float, y: float, colour: str, dx: float = 6, dy: float = 0) -> None:
    """Words beside a point, in the colour of its line."""
    axes.annotate(text, (x, y), (dx, dy), textcoords="offset points", color=colour, ha="left", va="center")


def labels(axes: Any, words: Sequence[tuple[str, float, float, str]], distance: float = 12, width: float = 40) -> None:
    """Words (text, x, y, colour) right of their points, moved up where they would stand on words below them.

    Call it when everything else is drawn: it goes by the final scales. `distance` and `width` are in points.
    """
    axes.autoscale_view()
    point = axes.figure.dpi / 72
    taken: list[tuple[float, float]] = []
    for text, x, y, colour in sorted(words, key=lambda w: w[2]):
        across, up = axes.transData.transform((x, y)) / point
        at = max([up, *(v + distance for u, v in taken if abs(u - across) < width and v + distance > up)])
        taken.append((across, at))
        label(axes, text, x, y, colour, 7, at - up)


def save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
    pyplot.close(figure)
