"""Inline SVG, themed by the page's CSS classes: sharp at every size, light or dark, and small.

The accuracy plot places everything across its width in per cent and has no viewBox, so that its text keeps its size
on a phone. The scatter plot has no text and simply scales.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup, escape

from raydistill.report.data import PanelImage, Projection
from raydistill.report.projection import spread as evenly
from raydistill.report.scores import BOUNDS, Measure, ScoreRow
from raydistill.report.text import percent, spread

MAX_POINTS = 500
SIDE = 320
_MARGIN = 14.0
_ROW, _HEAD, _AXIS = 46, 30, 34


# ---- accuracy ------------------------------------------------------------------------------------------------------


def accuracy(scores: Sequence[ScoreRow], chance: float, measure: Measure = "top-1") -> Markup:
    """Bars of the last accuracy with its std, lines at chance and at the better bound, and a ring at the best over the
    training, which is known over images alone."""
    shown = tuple(s for s in scores if math.isfinite(s.value(measure)))
    if not shown:
        return Markup("")
    top = axis_top(shown, chance, measure)
    body: list[str] = []
    y = 0
    for student in dict.fromkeys(s.student for s in shown):
        rows = [s for s in shown if s.student == student]
        bounds = [s.value(measure) for s in rows if s.set in BOUNDS]
        body.append(f'<text class="student" x="0" y="{y + 20}">{escape(student)}</text>')
        marks = {"chance": chance / top} | ({"bound": max(bounds) / top} if bounds else {})
        body += [_bar(s, measure, top, y + _HEAD + i * _ROW, marks) for i, s in enumerate(rows)]
        y += _HEAD + _ROW * len(rows)
    body.append(_axis(top, y))
    said = "; ".join(f"{s.set}, {s.student}: {spread(s.value(measure), s.std(measure))} %" for s in shown)
    over = ", mean over classes" if measure == "balanced" else ""
    label = f"Bar chart of accuracy{over}. {said}. Chance: {percent(chance)} %."
    return Markup(
        f'<svg class="accuracy" role="img" width="100%" height="{y + _AXIS}" aria-label="{escape(label)}">'
        + "".join(body)
        + "</svg>"
    )


def axis_top(scores: Sequence[ScoreRow], chance: float, measure: Measure = "top-1") -> float:
    """End of the axis: the next tenth above everything that is drawn, at most 1."""
    drawn = (v for s in scores for v in (s.value(measure) + _std(s, measure), _best(s, measure)))
    values = [chance, *filter(math.isfinite, drawn)]
    return min(1.0, math.ceil(max(values) * 10 + 0.2) / 10)


def _bar(s: ScoreRow, measure: Measure, top: float, y: int, marks: dict[str, float]) -> str:
    """One set: name and value above; below them bar, error bar, ring, and a line at each of `marks` (kind -> share)."""
    kind = "main" if s.main else "other"
    value, std, best = s.value(measure), _std(s, measure), _best(s, measure)
    mean, low, high = (_across(v / top) for v in (value, value - std, value + std))
    mid = y + 32
    parts = [
        f'<text class="name {kind}" x="0" y="{y + 17}">{escape(s.set)}</text>',
        f'<text class="value {kind}" x="100%" y="{y + 17}">{spread(value, s.std(measure))} %</text>',
        f'<rect class="{kind}" x="0" y="{mid - 6}" width="{mean}" height="12" rx="2"/>',
    ]
    parts += [_upright(kind, _across(share), mid, 9) for kind, share in marks.items()]
    if std > 0:
        parts.append(f'<line class="error" x1="{low}" x2="{high}" y1="{mid}" y2="{mid}"/>')
        parts += [_upright("error", x, mid, 4) for x in (low, high)]
    if math.isfinite(best):
        parts.append(f'<circle class="best {kind}" cx="{_across(best / top)}" cy="{mid}" r="4"/>')
    return "".join(parts)


def _axis(top: float, y: int) -> str:
    step = 0.1 if top <= 0.5 else 0.2
    ticks = [i * step for i in range(round(top / step) + 1) if i * step <= top + 1e-9]
    marks = [f'<line class="axis" x1="0" x2="100%" y1="{y + 4}" y2="{y + 4}"/>']
    for tick in ticks:
        side = "start" if tick == 0 else "end" if tick > top - 1e-9 else "middle"
        x = _across(tick / top)
        marks.append(_upright("axis", x, y + 6, 2))
        marks.append(
            f'<text class="tick" text-anchor="{side}" x="{x}" y="{y + 24}">'
            f"{100 * tick:.0f}{' %' if tick == ticks[-1] else ''}</text>"
        )
    return "".join(marks)


def _upright(kind: str, x: str, mid: int, half: int) -> str:
    return f'<line class="{kind}" x1="{x}" x2="{x}" y1="{mid - half}" y2="{mid + half}"/>'


def _across(share: float) -> str:
    return f"{100 * min(1.0, max(0.0, share)):.2f}%"


def _std(s: ScoreRow, measure: Measure) -> float:
    """Shown spread: none for one training."""
    std = s.std(measure)
    return std if std is not None and math.isfinite(std) else 0.0


def _best(s: ScoreRow, measure: Measure) -> float:
    """The best over the training, which nobody kept over classes."""
    return s.best_mean if measure == "top-1" else math.nan


# ---- scatter -------------------------------------------------------------------------------------------------------


def scatter(projection: Projection, items: Sequence[PanelImage], name: str) -> Markup:
    """Real images as dots (at most MAX_POINTS), prototypes hollow, syntheses filled and tied to their prototype."""
    real = projection.real[evenly(len(projection.real), MAX_POINTS)]
    to_pixels = _Frame.around(real, projection.prototypes, projection.syntheses)
    dots = "".join(f"M{x} {y}h0" for x, y in map(to_pixels, real))
    ties, rings, discs = [], [], []
    for item, point in zip(items, projection.syntheses, strict=False):
        x, y = to_pixels(point)
        if 0 <= item.prototype_id < len(projection.prototypes):
            px, py = to_pixels(projection.prototypes[item.prototype_id])
            ties.append(f"M{px} {py}L{x} {y}")
        discs.append(f'<circle class="synthesis" cx="{x}" cy="{y}" r="4"><title>slot {item.slot}</title></circle>')
    for x, y in map(to_pixels, projection.prototypes):
        rings.append(f'<circle class="prototype" cx="{x}" cy="{y}" r="5.5"/>')
    label = (
        f"Latents of {name} on two principal axes: {len(real)} real images, "
        f"{len(projection.prototypes)} prototypes, {len(projection.syntheses)} syntheses."
    )
    return Markup(
        f'<svg class="scatter" role="img" viewBox="0 0 {SIDE} {SIDE}" aria-label="{escape(label)}">'
        f'<path class="real" d="{dots}"/><path class="tie" d="{"".join(ties)}"/>'
        + "".join(rings)
        + "".join(discs)
        + "</svg>"
    )


class _Frame:
    """Maps latent coordinates to the drawing, same scale on both axes, y upwards."""

    def __init__(self, centre: np.ndarray, scale: float) -> None:
        self.centre, self.scale = centre, scale

    @classmethod
    def around(cls, *groups: np.ndarray) -> _Frame:
        points = np.concatenate([np.asarray(g, np.float64).reshape(-1, 2) for g in groups])
        points = points[np.isfinite(points).all(1)]
        if not len(points):
            return cls(np.zeros(2), 1.0)
        low, high = points.min(0), points.max(0)
        extent = float((high - low).max())
        return cls((low + high) / 2, (SIDE - 2 * _MARGIN) / extent if extent > 0 else 1.0)

    def __call__(self, point: np.ndarray) -> tuple[str, str]:
        x, y = np.nan_to_num((np.asarray(point, np.float64) - self.centre) * self.scale, posinf=SIDE, neginf=-SIDE)
        return f"{SIDE / 2 + x:.1f}", f"{SIDE / 2 - y:.1f}"
