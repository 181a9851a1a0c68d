"""What a student was sure of, image by image of the set that it was trained on, as an inline SVG map."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

from raydistill.report.text import percent, spread

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 640, 460, 56, 54, 14
WIDEST = 0.5  # the largest standard deviation of what lies in [0, 1]
MOST = 1000  # points


@dataclass(frozen=True)
class DataMap:
    """Of the images of a set: what epochs gave to the true class, `mean` and `spread` (n,), mean over seeds, and the
    `part` (n,) of the set, an increment, that it belongs to. `shares` by kind."""

    set: str
    student: str
    mean: np.ndarray
    spread: np.ndarray
    part: np.ndarray
    main: bool
    shares: dict[str, float]

    @property
    def parts(self) -> list[int]:
        return sorted(set(self.part.tolist()))


def draw(data_map: DataMap, hard: float, informative: float) -> Markup:
    """A point an image, coloured by its increment: across the spread, upwards the mean; lines where kinds begin."""

    def x(value: float) -> float:
        return LEFT + (WIDTH - LEFT - 12) * value / WIDEST

    def y(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - value)

    body = [
        f'<line class="grid" x1="{LEFT}" x2="{x(informative):.1f}" y1="{y(hard):.1f}" y2="{y(hard):.1f}"/>',
        f'<line class="grid" x1="{x(informative):.1f}" x2="{x(informative):.1f}" y1="{TOP}" y2="{y(0):.1f}"/>',
    ]
    for value in (0.0, 0.5, 1.0):
        body.append(f'<text class="cell" text-anchor="end" x="{LEFT - 8}" y="{y(value) + 6:.1f}">{value:g}</text>')
    for value in (0.0, 0.25, 0.5):
        anchor = "end" if value == WIDEST else "middle"
        body.append(f'<text class="cell" text-anchor="{anchor}" x="{x(value):.1f}" y="{HEIGHT - 28}">{value:g}</text>')
    body.append(f'<text class="cell" text-anchor="middle" x="{x(0.25):.1f}" y="{HEIGHT - 6}">spread</text>')
    count = len(data_map.mean)
    for i in np.unique(np.linspace(0, count - 1, min(count, MOST)).astype(np.int64)):
        part = int(data_map.part[i])
        title = f"increment {part + 1}: {spread(float(data_map.mean[i]), float(data_map.spread[i]))} %"
        body.append(
            f'<circle class="point {colour(part)}" cx="{x(float(data_map.spread[i])):.1f}" '
            f'cy="{y(float(data_map.mean[i])):.1f}" r="6"><title>{escape(title)}</title></circle>'
        )
    summary = ", ".join(f"{percent(share)} % {kind}" for kind, share in data_map.shares.items())
    label = f"Probability of the true class of images of {data_map.set} while {data_map.student} trained: {summary}."
    return Markup(
        f'<svg class="confusion map" role="img" viewBox="0 0 {WIDTH} {HEIGHT}" aria-label="{escape(label)}">'
        + "".join(body)
        + "</svg>"
    )


def legend(data_map: DataMap) -> Markup:
    """The colours of the increments."""
    items = [
        f'<li><svg width="12" height="12"><circle class="point {colour(i)}" cx="6" cy="6" r="5"/></svg>'
        f"increment {i + 1}</li>"
        for i in data_map.parts
    ]
    return Markup(f'<ul class="legend">{"".join(items)}</ul>')


def colour(part: int) -> str:
    """The class of an increment's marks. From the second on, which are led, as `lines.chart` colours their lines."""
    return f"line{(part - 1) % 6}" if part else "main"
