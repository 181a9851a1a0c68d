"""How the classes fare, as inline SVG: accuracy of each class, and what is taken for what."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup, escape

from raydistill.report.data import ClassScores, Confusion, Embedding
from raydistill.report.increments import tile
from raydistill.report.text import count, percent

MAX_ROWS = 40
MAX_SQUARE = 50
MAX_NAMED = 25  # classes whose names stand beside the matrix
MAX_WRITTEN = 12  # and whose shares are written into it
SIDE = 640
_ROW = 26
_LETTER = 10.6  # width of one in the names of the matrix


def accuracy(scores: ClassScores) -> Markup:
    """A row a class, a mark a set, worst class of the main set first; at most MAX_ROWS classes."""
    main = next((v for v in scores.sets if v.main), scores.sets[0])
    order = np.argsort(main.mean, kind="stable")[:MAX_ROWS]
    body = []
    for row, i in enumerate(order):
        y = row * _ROW + 18
        body.append(
            f'<text class="name" x="0" y="{y}">{escape(_short(scores.names[i], 20))}{_images(scores, i)}</text>'
        )
        body.append(f'<line class="grid" x1="34%" x2="100%" y1="{y - 5}" y2="{y - 5}"/>')
        for s in sorted(scores.sets, key=lambda v: v.main):
            x = f"{34 + 64 * float(np.clip(s.mean[i], 0, 1)):.2f}%"
            title = f"{s.name}: {percent(float(s.mean[i]))} %"
            kind = "main" if s.main else "other"
            said = f"<title>{escape(title)}</title>"
            body.append(f'<circle class="mark {kind}" cx="{x}" cy="{y - 5}" r="5">{said}</circle>')
    y = len(order) * _ROW + 16
    body += [
        f'<text class="tick" text-anchor="{a}" x="{x}%" y="{y}">{t}</text>'
        for x, a, t in ((34, "start", "0"), (66, "middle", "50"), (100, "end", "100 %"))
    ]
    label = f"Accuracy of each class, {scores.student}, trained on {', '.join(s.name for s in scores.sets)}."
    head = f'<svg class="classes" role="img" width="100%" height="{y + 8}" aria-label="{escape(label)}">'
    return Markup(head + "".join(body) + "</svg>")


def _images(scores: ClassScores, i: int) -> Markup:
    """The images of a class behind its name."""
    if not scores.counts:
        return Markup("")
    return Markup('<tspan class="count"> {} / {}</tspan>').format(*map(count, scores.counts[i]))


def confusion(matrix: Confusion) -> Markup:
    """Rows are true classes, columns what they are taken for; the stronger, the larger the share of the row."""
    k = len(matrix.names)
    if k > MAX_SQUARE:
        return Markup("")
    cell = SIDE / k
    body = [f'<rect class="ground" width="{SIDE}" height="{SIDE}" rx="8"/>']
    for i in range(k):
        for j in range(k):
            share = float(matrix.share[i, j])
            if share < 0.005:
                continue
            title = f"{matrix.names[i]} taken for {matrix.names[j]}: {percent(share)} %"
            body.append(tile(i, j, cell, share, title, k <= MAX_WRITTEN))
    label = f"Confusion matrix of {matrix.student} trained on {matrix.set}; rows are true classes."
    names, margin = _names(matrix.names, cell) if k <= MAX_NAMED else ([], 0.0)
    frame = f"{-margin:.0f} 0 {SIDE + margin:.0f} {SIDE + margin:.0f}"
    head = f'<svg class="confusion" role="img" viewBox="{frame}" aria-label="{escape(label)}">'
    return Markup(head + "".join([*body, *names]) + "</svg>")


def _names(names: Sequence[str], cell: float) -> tuple[list[str], float]:
    """Names of the rows to the left, of the columns below, written upwards; and the margin that they need."""
    shown = [_short(name, 18) for name in names]
    margin = 16 + _LETTER * max(map(len, shown))
    texts = []
    for i, name in enumerate(shown):
        at = (i + 0.5) * cell + 5
        texts.append(f'<text class="side" text-anchor="end" x="-10" y="{at:.1f}">{escape(name)}</text>')
        turn = f"translate({at:.1f} {SIDE + 10}) rotate(-90)"
        texts.append(f'<text class="side" text-anchor="end" transform="{turn}">{escape(name)}</text>')
    return texts, margin


def mistakes(matrix: Confusion, most: int = 8) -> list[tuple[str, str, float]]:
    """The most frequent (true class, taken for, share of the true class), most frequent first."""
    off = matrix.share * (1 - np.eye(len(matrix.names)))
    order = np.argsort(-off, axis=None, kind="stable")[:most]
    pairs = [np.unravel_index(o, off.shape) for o in order]
    return [(matrix.names[i], matrix.names[j], float(off[i, j])) for i, j in pairs if off[i, j] > 0]


def embedding(latents: Embedding) -> Markup:
    """Real images as dots, syntheses as ringed discs, a colour a class."""
    points = np.concatenate([latents.real, latents.syntheses])
    low, high = points.min(0), points.max(0)
    scale = (SIDE - 24) / max(float((high - low).max()), 1e-9)

    def to_pixels(p: np.ndarray) -> tuple[str, str]:
        x, y = (p - (low + high) / 2) * scale + SIDE / 2
        return f"{x:.1f}", f"{SIDE - y:.1f}"

    body = []
    for p, c in zip(latents.real, latents.real_class, strict=True):
        x, y = to_pixels(p)
        body.append(f'<circle cx="{x}" cy="{y}" r="2.6" fill="{colour(int(c))}" opacity=".45"/>')
    for p, c in zip(latents.syntheses, latents.syntheses_class, strict=True):
        x, y = to_pixels(p)
        body.append(
            f'<circle class="ring" cx="{x}" cy="{y}" r="6" fill="{colour(int(c))}">'
            f"<title>{escape(latents.names[int(c)])}</title></circle>"
        )
    label = f"{len(latents.real)} real images and {len(latents.syntheses)} syntheses in one embedding."
    return _square("embedding", label, body)


def colours(names: Sequence[str]) -> list[tuple[str, str]]:
    """(colour, name) of each class, for a legend."""
    return [(colour(i), name) for i, name in enumerate(names)]


def colour(index: int) -> str:
    """Golden-angle hues: neighbours in number are far apart in colour."""
    return f"hsl({(index * 137.508) % 360:.0f} 62% {46 + 10 * (index % 3)}%)"


def _square(kind: str, label: str, body: Sequence[str]) -> Markup:
    head = f'<svg class="{kind}" role="img" viewBox="0 0 {SIDE} {SIDE}" aria-label="{escape(label)}">'
    return Markup(head + "".join(body) + "</svg>")


def _short(name: str, limit: int = 28) -> str:
    return name if len(name) <= limit else name[: limit - 1] + "…"
