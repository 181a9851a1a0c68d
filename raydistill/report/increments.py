"""How a set grew, and what its parts say of each other, with an inline SVG heat map of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

from raydistill.report.line import Line
from raydistill.report.text import percent

MOST = 20  # parts a side with their numbers in the cells
SIDE = 640
PALEST, DEEPEST = 0.06, 0.45  # of a cell's colour: shares written in the page's ink stay legible, light and dark


@dataclass(frozen=True)
class PartMatrix:
    """share (S, S): accuracy of a student trained on part i and tested on part j, mean over seeds, and the mean off its
    diagonal. `grew`: the parts are the increments of the set and not drawn at random."""

    set: str
    student: str
    share: np.ndarray
    redundancy: float
    main: bool
    grew: bool


@dataclass(frozen=True)
class GrowthRow:
    """After so many increments: images, accuracy, and which shares of the test images were learned and forgotten with
    the last of them; None with the first."""

    increments: int
    images: int
    accuracy: float
    learned: float | None
    forgotten: float | None


@dataclass(frozen=True)
class ChoiceRow:
    """Of an increment: mean S of the finished candidates that were `chosen` and `rejected`, None where nothing was, and
    S of the predicted image over the guided steps."""

    increment: int
    chosen: float | None
    rejected: float | None
    score: Line

    @property
    def first(self) -> float | None:
        """S at the first guided step, whose index is the highest."""
        return float(self.score.mean[-1]) if len(self.score.x) else None

    @property
    def last(self) -> float | None:
        return float(self.score.mean[0]) if len(self.score.x) else None


def heat(matrix: PartMatrix) -> Markup:
    """Rows are the part that a student was trained on, columns the one that it was tested on."""
    n = len(matrix.share)
    cell, body = SIDE / n, []
    for i in range(n):
        for j in range(n):
            share = float(matrix.share[i, j])
            title = f"trained on {i + 1}, tested on {j + 1}: {percent(share)} %"
            body.append(tile(i, j, cell, share, title, n <= MOST))
    sides, margin = _sides(n) if n <= MOST else ([], 0)
    label = f"Accuracy of {matrix.student} trained on one part of {matrix.set} and tested on another, in %."
    frame = f"{-margin} 0 {SIDE + margin} {SIDE + margin}"
    head = f'<svg class="confusion" role="img" viewBox="{frame}" aria-label="{escape(label)}">'
    return Markup(head + "".join([*body, *sides]) + "</svg>")


def tile(i: int, j: int, cell: float, share: float, title: str, written: bool) -> str:
    """Row i, column j of a square whose cells are `cell` wide: the stronger, the larger its share."""
    kind = "right" if i == j else "wrong"
    rect = (
        f'<rect class="{kind}" x="{j * cell:.1f}" y="{i * cell:.1f}" width="{cell:.1f}" height="{cell:.1f}" '
        f'opacity="{PALEST + (DEEPEST - PALEST) * share:.2f}"><title>{escape(title)}</title></rect>'
    )
    x, y = f"{(j + 0.5) * cell:.1f}", f"{(i + 0.5) * cell + 7:.1f}"
    words = f'<text class="cell" text-anchor="middle" x="{x}" y="{y}">{100 * share:.0f}</text>' if written else ""
    return rect + words


def _sides(n: int) -> tuple[list[str], int]:
    """Numbers of the parts, to the left of the rows and below the columns, what they are, and the margin they need."""
    middle, margin = SIDE / 2, 64
    body = []
    for i in range(n):
        at = (i + 0.5) * SIDE / n
        body.append(f'<text class="side" text-anchor="end" x="-10" y="{at + 7:.1f}">{i + 1}</text>')
        body.append(f'<text class="side" text-anchor="middle" x="{at:.1f}" y="{SIDE + 26}">{i + 1}</text>')
    across = f'<text class="side" text-anchor="middle" x="{middle}" y="{SIDE + 54}">tested on</text>'
    upwards = f'transform="rotate(-90)" text-anchor="middle" x="{-middle}" y="-46"'
    return [*body, across, f'<text class="side" {upwards}>trained on</text>'], margin
