"""Two objectives of every trial against each other, with the front of which none is better in all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup, escape

from raydistill.report import text

WIDTH, HEIGHT = 520, 300
LEFT, BOTTOM, TOP, RIGHT = 64, 44, 12, 16


def pareto(study: Mapping[str, Any]) -> list[Markup]:
    """The first objective over each of the others; none of a single objective."""
    first, *others = study["objectives"]
    winner = study["winner"]["trial"]
    trials = sorted(
        (t for t in study["trials"] if not t["failed"]), key=lambda t: t["name"] == winner
    )  # over the others
    return [_scatter(study, trials, other, first) for other in others] if trials else []


def _scatter(study: Mapping[str, Any], trials: list[Mapping[str, Any]], x: str, y: str) -> Markup:
    across = _scale([t["objectives"][x] for t in trials], LEFT, WIDTH - RIGHT)
    up = _scale([t["objectives"][y] for t in trials], HEIGHT - BOTTOM, TOP)
    at = {t["trial"]: (across(t["objectives"][x]), up(t["objectives"][y])) for t in trials}
    front = sorted(at[number] for number in study["front"] if number in at)
    line = " ".join(f"{px:.1f},{py:.1f}" for px, py in front)
    body = [f'<polyline class="front" points="{line}"/>'] if len(front) > 1 else []
    for t in trials:
        px, py = at[t["trial"]]
        kind = "main" if t["name"] == study["winner"]["trial"] else "front" if t["trial"] in study["front"] else "line0"
        title = escape(f"{t['name']}: {', '.join(f'{k} {text.number(v)}' for k, v in t['objectives'].items())}")
        body.append(f'<circle class="point {kind}" cx="{px:.1f}" cy="{py:.1f}" r="4.5"><title>{title}</title></circle>')
    body += [
        *_ends([t["objectives"][x] for t in trials], across, True),
        *_ends([t["objectives"][y] for t in trials], up),
    ]
    mid = (LEFT + WIDTH - RIGHT) / 2
    body.append(f'<text class="tick" text-anchor="middle" x="{mid}" y="{HEIGHT - 6}">{escape(x)}</text>')
    body.append(f'<text class="tick" x="6" y="{HEIGHT / 2:.0f}">{escape(y)}</text>' if len(y) < 4 else "")
    label = escape(f"{y} of {len(trials)} trials over {x}")
    opening = f'<svg class="effect pareto" role="img" viewBox="0 0 {WIDTH} {HEIGHT}" aria-label="{label}">'
    return Markup(f"{opening}{''.join(body)}</svg>")


def _scale(values: list[float], start: float, end: float) -> Any:
    low, high = min(values), max(values)
    return lambda v: start + (end - start) * ((v - low) / (high - low) if high > low else 0.5)


def _ends(values: list[float], scale: Any, below: bool = False) -> list[str]:
    """The least and the largest value, beside their axis."""
    words = []
    for v, anchor in ((min(values), "start"), (max(values), "end")):
        at = (
            f'text-anchor="{anchor}" x="{scale(v):.1f}" y="{HEIGHT - BOTTOM + 20}"'
            if below
            else f'text-anchor="end" x="{LEFT - 8}" y="{scale(v) + 4:.1f}"'
        )
        words.append(f'<text class="tick" {at}>{escape(text.number(v))}</text>')
    return words
