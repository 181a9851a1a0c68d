"""Two objectives of every trial against each other, with the front of which none is better in all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup, escape

from raydistill.report import text

WIDTH, HEIGHT = 520, 300
LEFT, BOTTOM, TOP, RIGHT = 64, 50, 34, 16
IN_PERCENT = ("accuracy", "worst_student")
NAMED = {"network_calls": "network calls an image", "seconds": "planned seconds an image"}


def named(objective: str) -> str:
    """An objective with its unit."""
    return f"{objective.replace('_', ' ')}, %" if objective in IN_PERCENT else NAMED.get(objective, objective)


def said(objective: str, value: float) -> str:
    """A value of it in that unit."""
    return text.percent(value) if objective in IN_PERCENT else text.number(value)


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
    corner = f"{LEFT - 4},{TOP - 6} {LEFT - 4},{HEIGHT - BOTTOM + 6} {WIDTH - RIGHT + 6},{HEIGHT - BOTTOM + 6}"
    body = [f'<polyline class="axis" points="{corner}"/>']
    body += [f'<polyline class="front" points="{line}"/>'] if len(front) > 1 else []
    for t in trials:
        px, py = at[t["trial"]]
        kind = "main" if t["name"] == study["winner"]["trial"] else "front" if t["trial"] in study["front"] else "line0"
        title = escape(f"{t['name']}: {', '.join(f'{named(k)} {said(k, v)}' for k, v in t['objectives'].items())}")
        body.append(f'<circle class="point {kind}" cx="{px:.1f}" cy="{py:.1f}" r="4.5"><title>{title}</title></circle>')
    body += [
        *_ends(x, [t["objectives"][x] for t in trials], across, True),
        *_ends(y, [t["objectives"][y] for t in trials], up),
    ]
    mid = (LEFT + WIDTH - RIGHT) / 2
    body.append(f'<text class="tick" text-anchor="middle" x="{mid}" y="{HEIGHT - 6}">{escape(named(x))}</text>')
    body.append(f'<text class="tick" x="0" y="14">{escape(named(y))}</text>')
    label = escape(f"{named(y)}, of {len(trials)} trials over {named(x)}")
    opening = f'<svg class="effect pareto" role="img" viewBox="0 0 {WIDTH} {HEIGHT}" aria-label="{label}">'
    return Markup(f"{opening}{''.join(body)}</svg>")


def _scale(values: list[float], start: float, end: float) -> Any:
    low, high = min(values), max(values)
    return lambda v: start + (end - start) * ((v - low) / (high - low) if high > low else 0.5)


def _ends(objective: str, values: list[float], scale: Any, below: bool = False) -> list[str]:
    """The least and the largest value, beside their axis."""
    words = []
    for v, anchor in ((min(values), "start"), (max(values), "end")):
        at = (
            f'text-anchor="{anchor}" x="{scale(v):.1f}" y="{HEIGHT - BOTTOM + 24}"'
            if below
            else f'text-anchor="end" x="{LEFT - 10}" y="{scale(v) + 4:.1f}"'
        )
        words.append(f'<text class="tick" {at}>{escape(said(objective, v))}</text>')
    return words
