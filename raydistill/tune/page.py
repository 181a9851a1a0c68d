"""The page of a sweep, drawn from study.json and the images of two trials: one file, without requests or scripts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from raydistill.report import text
from raydistill.report.contents import with_contents
from raydistill.report.page import environment
from raydistill.tune.live import spent
from raydistill.tune.parallel import distinct, logarithmic, parallel, value
from raydistill.tune.pareto import named, pareto, said
from raydistill.tune.verdict import AGAIN, SEARCH, TEST

WIDTH, HEIGHT = 360, 220
LEFT, BOTTOM, TOP, RIGHT = 44, 34, 10, 14


def render(study: Mapping[str, Any], grids: Sequence[tuple[str, list[list[str]]]] = ()) -> str:
    """The page as HTML text; `grids` are names and images, rows of data URIs. Equal studies give equal text."""
    rows = best_first(study["trials"])
    html = (
        environment()
        .get_template("study.html")
        .render(
            study=study,
            verdict=text.minus(study["verdict"][0].upper() + study["verdict"][1:]),
            rows=rows,
            stands=[study["scores"][where] for where in (SEARCH, AGAIN, TEST)],
            again={m["name"]: m for m in study["again"]},
            effects=[(key, drawn) for key in study["knobs"] if (drawn := effect(study, key))],
            parallel=parallel(study),
            pareto=pareto(study),
            grids=[(name, images) for name, images in grids if images],
            spent=spent(study["money"]),
            estimate=estimate,
            points=points,
            value=value,
            named=named,
            said=said,
        )
    )
    return text.printable_lines(with_contents(html))


def best_first(trials: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The trials of a study by their scores; then those that were stopped, and those that failed."""
    return sorted(
        trials,
        key=lambda t: (bool(t["failed"]), bool(t.get("stopped")), -t.get("score", {}).get("mean", 0.0), t["trial"]),
    )


def whole(study: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The trials that were trained to the end."""
    return [t for t in study["trials"] if not t["failed"] and not t["stopped"]]


def effect(study: Mapping[str, Any], key: str) -> Markup:
    """Accuracy of the trials over a knob, with intervals over their seeds; the band is the default's."""
    trials = [t for t in whole(study) if key in t["values"]]
    if not trials:
        return Markup("")
    numbers = [t["values"][key] for t in trials]
    ordered = all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers)
    known = distinct(numbers)
    scale = math.log if logarithmic(study, key) else float
    scores = [t["score"] for t in trials] + [study["default"]["score"]]
    low = min(s["mean"] if s["low"] is None else s["low"] for s in scores)
    high = max(s["mean"] if s["high"] is None else s["high"] for s in scores)
    low, high = max(0.0, low), min(1.0, high)

    def across(number: Any) -> float:
        if not ordered:
            share = (known.index(number) + 0.5) / len(known)
        else:
            share = (scale(number) - scale(known[0])) / ((scale(known[-1]) - scale(known[0])) or 1)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def up(accuracy: float) -> float:
        share = (min(max(accuracy, low), high) - low) / ((high - low) or 1)
        return HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)

    body = [_band(study["default"]["score"], up), *_axes(low, high, [value(k) for k in known], ordered, up)]
    for t in trials:
        x, s = across(t["values"][key]), t["score"]
        kind = "main" if t["name"] == study["winner"]["trial"] else "line0"
        if s["low"] is not None:
            body.append(
                f'<line class="error" x1="{x:.1f}" x2="{x:.1f}" y1="{up(s["low"]):.1f}" y2="{up(s["high"]):.1f}"/>'
            )
        title = escape(f"{t['name']}: {value(t['values'][key])}, {estimate(s)} %")
        body.append(
            f'<circle class="point {kind}" cx="{x:.1f}" cy="{up(s["mean"]):.1f}" r="4"><title>{title}</title></circle>'
        )
    label = escape(f"Accuracy of {len(trials)} trials over {key}")
    return Markup(
        f'<svg class="effect" role="img" viewBox="0 0 {WIDTH} {HEIGHT}" aria-label="{label}">{"".join(body)}</svg>'
    )


def _band(default: Mapping[str, Any], up: Any) -> str:
    mean = up(default["mean"])
    line = f'<line class="default" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{mean:.1f}" y2="{mean:.1f}"/>'
    if default["low"] is None:
        return line
    top, bottom = up(default["high"]), up(default["low"])
    area = f'x="{LEFT}" width="{WIDTH - LEFT - RIGHT}" y="{top:.1f}" height="{bottom - top:.1f}"'
    return f'<rect class="default" {area}/>{line}'


def _axes(low: float, high: float, known: list[str], ordered: bool, up: Any) -> list[str]:
    y = HEIGHT - BOTTOM + 20
    ends: list[tuple[float, str, str]]
    if ordered and len(known) > 1:
        ends = [(LEFT, "start", known[0]), (WIDTH - RIGHT, "end", known[-1])]
    else:
        step = (WIDTH - LEFT - RIGHT) / len(known)
        ends = [(LEFT + (i + 0.5) * step, "middle", name) for i, name in enumerate(known)]
    words = [f'<text class="tick" text-anchor="{a}" x="{x:.1f}" y="{y}">{escape(name)}</text>' for x, a, name in ends]
    for accuracy in (low, high):
        at = f'x="{LEFT - 6}" y="{up(accuracy) + 4:.1f}"'
        words.append(f'<text class="tick" text-anchor="end" {at}>{text.percent(accuracy)}</text>')
    return words


def estimate(e: Mapping[str, Any]) -> str:
    """'52.1 [50.3, 53.9]' in per cent."""
    bounds = "" if e["low"] is None else f" [{text.percent(e['low'])}, {text.percent(e['high'])}]"
    return text.percent(e["mean"]) + bounds


def points(e: Mapping[str, Any]) -> str:
    """A difference, in points."""
    bounds = "" if e["low"] is None else f" [{100 * e['low']:+.1f}, {100 * e['high']:+.1f}]"
    return text.minus(f"{100 * e['mean']:+.1f}{bounds}")
