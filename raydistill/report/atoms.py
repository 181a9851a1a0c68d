"""How near the atoms of a set are to the real latents of their class, and how that falls, as the page shows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from markupsafe import Markup, escape

from raydistill.report.text import number

KINDS = ("equal", "weighted", "least")
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 640, 420, 76, 54, 14


@dataclass(frozen=True)
class AtomDistances:
    """Wasserstein-2 of the real latents of each class to the prototypes or syntheses of a set, squared, (K,) each: with
    `equal` masses, `weighted` as the set is, and the `least` that masses can give."""

    set: str
    what: Literal["prototypes", "syntheses"]
    equal: np.ndarray
    weighted: np.ndarray
    least: np.ndarray

    def overall(self) -> dict[str, float]:
        """W2 over all classes, the root of the mean square."""
        return {name: float(getattr(self, name).mean() ** 0.5) for name in ("equal", "weighted", "least")}

    def of_class(self, row: int) -> tuple[float, float, float]:
        """W2 of one class: equal, weighted, least."""
        return tuple(float(v[row] ** 0.5) for v in (self.equal, self.weighted, self.least))  # type: ignore[return-value]

    @property
    def drop(self) -> float:
        """By which share weights bring W2 down."""
        w2 = self.overall()
        return 1 - w2["weighted"] / w2["equal"] if w2["equal"] > 0 else 0.0


@dataclass(frozen=True)
class ClassFall:
    """W2 (least) of one class at each K (n,), and its slope."""

    name: str
    w2: np.ndarray
    slope: float | None


@dataclass(frozen=True)
class AtomCurve:
    """Wasserstein-2 squared (n, C) of C `classes`, the names, to `k` (n,) atoms each, ascending, of latents of `dim`
    numbers."""

    algorithm: str
    k: np.ndarray
    equal: np.ndarray
    weighted: np.ndarray
    least: np.ndarray
    dim: int
    classes: tuple[str, ...]

    def overall(self, kind: str) -> np.ndarray:
        """W2 over classes (n,), the root of the mean square."""
        return np.sqrt(getattr(self, kind).mean(axis=1))

    @property
    def slope(self) -> float | None:
        """Of log W2 (least) over log K by least squares; None where it reaches 0."""
        return self._slope(self.overall("least"))

    @property
    def rate(self) -> float:
        """The slope where the latents fill all their dimensions, K^(-1/d)."""
        return -1 / self.dim

    @property
    def of_classes(self) -> list[ClassFall]:
        every = np.sqrt(self.least).T
        return [ClassFall(name, w2, self._slope(w2)) for name, w2 in zip(self.classes, every, strict=True)]

    def _slope(self, w2: np.ndarray) -> float | None:
        return float(np.polyfit(np.log(self.k), np.log(w2), 1)[0]) if w2.min() > 0 else None


def draw(curve: AtomCurve) -> Markup:
    """Log-log, a line a kind, K^(-1/d) through the first point of the least, and a thin line a class, its least."""
    lines = {kind: curve.overall(kind) for kind in KINDS}
    rate = lines["least"][0] * (curve.k / curve.k[0]) ** curve.rate
    every = np.concatenate([*lines.values(), rate, *(c.w2 for c in curve.of_classes)])
    known = every[every > 0] if np.any(every > 0) else np.ones(1)
    low, high = float(known.min()), float(known.max())
    ends = np.log(curve.k[[0, -1]])

    def x(k: float) -> float:
        return LEFT + (WIDTH - LEFT - 16) * float((np.log(k) - ends[0]) / max(ends[1] - ends[0], 1e-9))

    def y(w2: float) -> float:
        share = (np.log(max(w2, low)) - np.log(low)) / max(np.log(high) - np.log(low), 1e-9)
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - float(share))

    def path(values: np.ndarray) -> str:
        return " ".join(f"{x(k):.1f},{y(float(v)):.1f}" for k, v in zip(curve.k, values, strict=True))

    body = [
        f'<polyline class="curve each" points="{path(c.w2)}"><title>{escape(c.name)}</title></polyline>'
        for c in curve.of_classes
    ]
    body.append(f'<polyline class="curve rate" points="{path(rate)}"/>')
    for i, (kind, values) in enumerate(lines.items()):
        body.append(f'<polyline class="curve line{i}" points="{path(values)}"/>')
        for k, v in zip(curve.k, values, strict=True):
            title = f"{kind}, {k} atoms: {number(float(v))}"
            body.append(
                f'<circle class="point line{i}" cx="{x(k):.1f}" cy="{y(float(v)):.1f}" r="5">'
                f"<title>{escape(title)}</title></circle>"
            )
    for k in curve.k:
        body.append(f'<text class="cell" text-anchor="middle" x="{x(k):.1f}" y="{HEIGHT - 28}">{k}</text>')
    for v in np.geomspace(low, high, 4):
        body.append(
            f'<text class="cell" text-anchor="end" x="{LEFT - 10}" y="{y(float(v)) + 6:.1f}">{number(float(v))}</text>'
        )
    body.append(
        f'<text class="cell" text-anchor="middle" x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 6}">atoms a class</text>'
    )
    summary = ", ".join(f"{k}: {number(float(v))}" for k, v in zip(curve.k, lines["least"], strict=True))
    label = f"W2 of the latents of a class to its atoms over their number; least: {summary}."
    return Markup(
        f'<svg class="confusion map" role="img" viewBox="0 0 {WIDTH} {HEIGHT}" aria-label="{escape(label)}">'
        + "".join(body)
        + "</svg>"
    )
