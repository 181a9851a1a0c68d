"""Trials as lines over parallel axes, one a knob and the last their accuracy."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from raydistill.config.loading import written

STEP, HEIGHT, SIDE, TOP, BOTTOM = 190, 230, 70, 34, 24
ACCURACY = "accuracy, %"
MISSING = object()  # in place of the value of a knob that a trial's method does not read


def parallel(study: Mapping[str, Any]) -> Markup:
    """Good trials are drawn stronger, the winner in colour; a knob that a trial does not have breaks its line."""
    trials = sorted(
        (t for t in study["trials"] if not t["failed"] and not t["stopped"]), key=lambda t: t["score"]["mean"]
    )
    keys = [k for k in study["knobs"] if any(k in t["values"] for t in trials)]
    if not keys or len(trials) < 2:
        return Markup("")
    columns = [
        *([t["values"].get(k, MISSING) for t in trials] for k in keys),
        [100 * t["score"]["mean"] for t in trials],
    ]
    scales = [*(math.log if logarithmic(study, k) else float for k in keys), float]
    heights = [_shares(column, scale) for column, scale in zip(columns, scales, strict=True)]
    axes = [_axis(i, name, column) for i, (name, column) in enumerate(zip([*keys, ACCURACY], columns, strict=True))]
    body = [line for line, _ in axes]
    for rank, t in enumerate(trials):
        kind = "main" if t["name"] == study["winner"]["trial"] else "other"
        points = [(i, shares[rank]) for i, shares in enumerate(heights) if shares[rank] is not None]
        path = " ".join(f"{_x(i):.1f},{_y(share or 0.0):.1f}" for i, share in points)
        opacity = 0.15 + 0.6 * rank / (len(trials) - 1)
        shown = f'class="trial {kind}" points="{path}" style="opacity:{1 if kind == "main" else opacity:.2f}"'
        body.append(f"<polyline {shown}><title>{escape(t['name'])}</title></polyline>")
    body += [words for _, words in axes]  # over the lines, whose colours they would lie under
    width = 2 * SIDE + STEP * len(keys)
    label = escape(f"{len(trials)} trials over {', '.join(keys)} and accuracy")
    opening = f'<svg class="parallel" role="img" viewBox="0 0 {width} {HEIGHT}" aria-label="{label}">'
    return Markup(f"{opening}{''.join(body)}</svg>")


def logarithmic(study: Mapping[str, Any], key: str) -> bool:
    """Whether a knob was searched in logarithms, and is shown so."""
    return any(line.startswith(f"{key} from ") and line.endswith("(log)") for line in study["space"])


def _shares(column: Sequence[Any], scale: Callable[[Any], float]) -> list[float | None]:
    """Where each value stands on its axis, 0 at the bottom and 1 at the top; None where a trial has no such knob."""
    known = distinct(column)
    if not _ordered(known):
        return [None if v is MISSING else (known.index(v) + 0.5) / len(known) for v in column]
    low, high = scale(known[0]), scale(known[-1])
    return [None if v is MISSING else (scale(v) - low) / (high - low) if high > low else 0.5 for v in column]


def distinct(column: Sequence[Any]) -> list[Any]:
    """The values that a knob has, null before all others: a value like any, with a place of its own."""
    values = {v for v in column if v is not MISSING and v is not None}
    several = sorted(values) if _ordered(list(values)) else sorted(values, key=written)
    return [*([None] if None in column else []), *several]


def _ordered(values: Sequence[Any]) -> bool:
    return all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)


def _axis(i: int, name: str, column: Sequence[Any]) -> tuple[str, str]:
    """The axis, and the words beside it."""
    known, x = distinct(column), _x(i)
    marks = [(0.0, known[0]), (1.0, known[-1])] if _ordered(known) and len(known) > 1 else []
    marks = marks or [((k + 0.5) / len(known), v) for k, v in enumerate(known)]
    words = [f'<text class="tick" x="{x + 5:.1f}" y="{_y(at) + 4:.1f}">{escape(value(v))}</text>' for at, v in marks]
    line = f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{_y(0)}" y2="{_y(1)}"/>'
    return line, f'<text class="knob" text-anchor="middle" x="{x:.1f}" y="16">{escape(name)}</text>{"".join(words)}'


def _x(i: int) -> float:
    return SIDE + STEP * i


def _y(share: float) -> float:
    return HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)


def value(v: Any) -> str:
    """Of a knob, as it is written on the command line but for digits."""
    return f"{v:.3g}" if isinstance(v, float) else written(v)
