"""Accuracy and coverage against network calls an image: what a set's quality costs. Drawn where calls differ."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup, escape

from raydistill.report.data import CallChart, CallPoint
from raydistill.report.lines import nice
from raydistill.report.scores import Measure
from raydistill.report.text import number, percent

CALLS = "network_calls"
COVERAGE = "mode_coverage_ipc"
HEIGHT = 220
LEAST = 0.04  # of the scale, where all are alike
_LEFT, _RIGHT, _TOP, _BOTTOM = 9.0, 86.0, 10, 52  # of the drawing: per cent across, pixels up and down


def charts(
    sets: Sequence[tuple[str, str, bool, Mapping[str, float]]], measure: Measure = "top-1"
) -> tuple[CallChart, ...]:
    """One a student, and one of coverage. Each set: name, line, main, and its own numbers by the keys of result.json.

    A chart without two different numbers of calls says nothing and is left out.
    """
    keys = list(dict.fromkeys(k for *_, flat in sets for k in flat))
    kind, what = ("balanced_", "last accuracy a class") if measure == "balanced" else ("", "last top-1")
    wanted = [
        (f"{what} of {k.split('/')[1]}", k, f"{k.removesuffix('mean')}std")
        for k in keys
        if k.startswith("accuracy/") and k.count("/") == 2 and k.endswith(f"/{kind}mean")
    ]
    wanted += [(f"modes covered ({k.partition('/')[2]}, M = IPC)", k, "") for k in keys if k.startswith(f"{COVERAGE}/")]
    drawn = []
    for title, key, std in wanted:
        points = tuple(
            CallPoint(name, line, flat[CALLS], flat[key], flat.get(std, 0.0), main)
            for name, line, main, flat in sets
            if flat.get(CALLS, 0) > 0 and key in flat
        )
        if len({p.calls for p in points}) > 1:
            drawn.append(CallChart(title, points))
    return tuple(drawn)


def draw(chart: CallChart) -> Markup:
    """Points with one std up and down, calls on a logarithmic scale; everything is placed in per cent of the width."""
    few, many = (math.log(f(p.calls for p in chart.points)) for f in (min, max))
    top = max(p.mean + p.std for p in chart.points)
    marks = nice(min(top - LEAST, *(p.mean - p.std for p in chart.points)), top)

    def x(p: CallPoint) -> float:
        return _LEFT + 4 + (_RIGHT - _LEFT - 4) * (math.log(p.calls) - few) / (many - few)

    def y(value: float) -> float:
        return _TOP + HEIGHT * (1 - (value - marks[0]) / (marks[-1] - marks[0]))

    body = []
    for value in marks:
        body.append(f'<line class="grid" x1="{_LEFT}%" x2="100%" y1="{y(value):.1f}" y2="{y(value):.1f}"/>')
        at = f'text-anchor="end" x="{_LEFT - 1}%" y="{y(value) + 4:.1f}"'
        body.append(f'<text class="tick" {at}>{percent(value).removesuffix(".0")}</text>')
    foot = _TOP + HEIGHT + 22
    for calls, at_x in sorted({(p.calls, x(p)) for p in chart.points}):
        body.append(f'<text class="tick" text-anchor="middle" x="{at_x:.2f}%" y="{foot}">{number(calls)}</text>')
    middle = f'text-anchor="middle" x="{(_LEFT + 100) / 2}%" y="{foot + 20}"'
    body.append(f'<text class="tick" {middle}>network calls an image</text>')
    names = list(dict.fromkeys(p.line for p in chart.points))
    taken: list[tuple[float, float]] = []
    for p in sorted(chart.points, key=lambda p: (p.line, p.calls)):
        kind = "main" if p.main else f"line{names.index(p.line) % 6}"
        following = [q for q in chart.points if q.line == p.line and q.calls > p.calls]
        if following:
            q = min(following, key=lambda q: q.calls)
            body.append(f'<line class="curve {kind}" x1="{x(p):.2f}%" x2="{x(q):.2f}%" y1="{y(p.mean):.1f}" '
                        f'y2="{y(q.mean):.1f}"/>')  # fmt: skip
        if p.std > 0:
            body.append(f'<line class="error" x1="{x(p):.2f}%" x2="{x(p):.2f}%" y1="{y(p.mean - p.std):.1f}" '
                        f'y2="{y(p.mean + p.std):.1f}"/>')  # fmt: skip
        body.append(f'<circle class="point {kind}" cx="{x(p):.2f}%" cy="{y(p.mean):.1f}" r="4.5">'
                    f"<title>{escape(p.name)}</title></circle>")  # fmt: skip
        if not following:
            up = y(p.mean) + 4
            while any(abs(x(p) - u) < 18 and abs(up - v) < 15 for u, v in taken):  # never on another line's words
                up += 15 if y(p.mean) < _TOP + HEIGHT / 2 else -15
            taken.append((x(p), up))
            body.append(f'<text class="name {kind}" x="{x(p) + 1.4:.2f}%" y="{up:.1f}">{escape(p.line)}</text>')
    said = "; ".join(f"{p.name}: {number(p.calls)} calls, {percent(p.mean)} %" for p in chart.points)
    return Markup(
        f'<svg class="lines" role="img" width="100%" height="{_TOP + HEIGHT + _BOTTOM}" '
        f'aria-label="{escape(f"{chart.title} in %, against network calls an image. {said}.")}">{"".join(body)}</svg>'
    )
