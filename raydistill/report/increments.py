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
            kind = "right" if i == j else "wrong"
            body.append(
                f'<rect class="{kind}" x="{j * cell:.1f}" y="{i * cell:.1f}" width="{cell:.1f}" height="{cell:.1f}" '
                f'opacity="{PALEST + (DEEPEST - PALEST) * share:.2f}"><title>{escape(title)}</title></rect>'
            )
            if n <= MOST:
                body.append(
                    f'<text class="cell" text-anchor="middle" x="{(j + 0.5) * cell:.1f}" '
                    f'y="{(i + 0.5) * cell + 7:.1f}">{100 * share:.0f}</text>'
                )
    label = f"Accuracy of {matrix.student} trained on one part of {matrix.set} and tested on another, in %."
    return Markup(
        f'<svg class="confusion" role="img" viewBox="0 0 {SIDE} {SIDE}" aria-label="{escape(label)}">'
        + "".join(body)
        + "</svg>"
    )
