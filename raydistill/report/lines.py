"""Line charts with bands as inline SVG: learning curves, and what guidance did step by step.

Lines are drawn in a nested SVG that stretches to the page's width; text stands outside it and keeps its size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from markupsafe import Markup, escape

from raydistill.report.line import Line

HEIGHT = 220
_LEFT, _TOP, _BOTTOM = 44, 8, 30
WIDTH = 1000.0  # of the stretched drawing


def chart(
    lines: Sequence[Line], label: str, ticks: Callable[[float], str], across: str, falling: bool = False
) -> Markup:
    """Mean lines with bands of one std. `ticks` words a value of y; `across` names x; `falling` runs x downwards."""
    drawn = [ln for ln in lines if len(ln.x) and np.isfinite(ln.mean).any()]
    if not drawn:
        return Markup("")
    x_low, x_high = min(float(ln.x.min()) for ln in drawn), max(float(ln.x.max()) for ln in drawn)
    low = min(float(np.nanmin(ln.mean - ln.std)) for ln in drawn)
    high = max(float(np.nanmax(ln.mean + ln.std)) for ln in drawn)
    marks = nice(0.0 if 0 <= low < high / 2 else low, high)  # from 0, unless half of the drawing would be empty
    low, high = marks[0], marks[-1]

    def to_pixels(x: np.ndarray, y: np.ndarray) -> list[str]:
        across_x = (x - x_low) / max(x_high - x_low, 1e-12)
        if falling:
            across_x = 1 - across_x
        up = 1 - np.clip((y - low) / max(high - low, 1e-12), 0, 1)
        return [f"{WIDTH * a:.1f},{HEIGHT * b:.1f}" for a, b in zip(across_x, up, strict=True)]

    body = []
    for i, ln in enumerate(drawn):
        kind = "main" if ln.main else f"line{i % 6}"
        if np.any(ln.std > 0):
            edge = to_pixels(ln.x, ln.mean + ln.std) + to_pixels(ln.x, ln.mean - ln.std)[::-1]
            body.append(f'<polygon class="band {kind}" points="{" ".join(edge)}"/>')
        points = to_pixels(ln.x, ln.mean)
        shown = " ".join(points if len(points) > 1 else points * 2)
        body.append(f'<polyline class="curve {kind}" points="{shown}" vector-effect="non-scaling-stroke"/>')
    text = []
    for value in marks:
        y = _TOP + HEIGHT * (1 - (value - low) / max(high - low, 1e-12))
        text.append(f'<line class="grid" x1="{_LEFT}" x2="100%" y1="{y:.1f}" y2="{y:.1f}"/>')
        at = f'text-anchor="end" x="{_LEFT - 6}" y="{y + 4:.1f}"'
        text.append(f'<text class="tick" {at}>{escape(ticks(value))}</text>')
    first, last = (x_high, x_low) if falling else (x_low, x_high)
    y = _TOP + HEIGHT + 20
    text.append(f'<text class="tick" x="{_LEFT}" y="{y}">{first:,.0f}</text>')
    text.append(f'<text class="tick" text-anchor="middle" x="55%" y="{y}">{escape(across)}</text>')
    text.append(f'<text class="tick" text-anchor="end" x="100%" y="{y}">{last:,.0f}</text>')
    inner = (
        f'<svg x="{_LEFT}" y="{_TOP}" width="100%" height="{HEIGHT}" overflow="visible" style="width:calc(100% - '
        f'{_LEFT}px)" viewBox="0 0 {WIDTH:.0f} {HEIGHT}" preserveAspectRatio="none">{"".join(body)}</svg>'
    )
    return Markup(
        f'<svg class="lines" role="img" width="100%" height="{_TOP + HEIGHT + _BOTTOM}" aria-label="{escape(label)}">'
        f"{''.join(text)}{inner}</svg>"
    )


def legend(lines: Sequence[Line]) -> Markup:
    """The names of the lines that `chart` draws, with their strokes."""
    drawn = [ln for ln in lines if len(ln.x) and np.isfinite(ln.mean).any()]
    items = []
    for i, ln in enumerate(drawn):
        kind = "main" if ln.main else f"line{i % 6}"
        stroke = f'<svg width="18" height="12"><line class="curve {kind}" x2="18" y1="6" y2="6"/></svg>'
        items.append(f"<li>{stroke}{escape(ln.name)}</li>")
    return Markup(f'<ul class="legend">{"".join(items)}</ul>')


def nice(low: float, high: float) -> list[float]:
    """Three to seven round numbers from at or below `low` to at or above `high`."""
    span = max(high - low, 1e-9)
    step = 10 ** math.floor(math.log10(span / 4))
    step *= next(m for m in (1, 2, 5, 10) if span / (m * step) <= 5)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, max(last, first + 1) + 1)]
