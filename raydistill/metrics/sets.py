"""Sets of vectors: their classes, and the distances and cosines between them by float32 matrix products."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

CACHE = 1 << 18  # numbers that are worked on at a time
SAME = 4e-6  # squared distances below this share of the squared norms are rounding: the points are the same


def by_class(y: np.ndarray, classes: int) -> list[np.ndarray]:
    """Row numbers of each class, in their order."""
    order = np.argsort(y, kind="stable")
    return np.split(order, np.searchsorted(y[order], np.arange(1, classes)))


def class_mean(values: Iterable[float | None]) -> float | None:
    """Mean over classes; None if one of them has no value, as a mean over the others would look like one over all."""
    per_class = list(values)
    known = [v for v in per_class if v is not None]
    return float(np.mean(known)) if known and len(known) == len(per_class) else None


def mean(values: np.ndarray, w: np.ndarray) -> float:
    """Of values (n,) by weights (n,); where these are equal, that without weights to the bit."""
    return float(values.mean()) if np.ptp(w) == 0 else float(w @ values / w.sum())


def squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(n, D) and (m, D) float32 -> (n, m) float32, at least 0, and exactly 0 between equal rows."""
    shift = b.mean(axis=0, dtype=np.float64).astype(np.float32)  # the smaller the norms, the smaller the rounding
    to_itself = a is b
    a = a - shift
    b = a if to_itself else b - shift
    squares = [np.einsum("nd,nd->n", v, v, dtype=np.float64).astype(np.float32) for v in (a, b)]
    d = a @ b.T
    for rows in blocks(len(d), max(1, CACHE // len(b))):
        part, sums = d[rows], squares[0][rows, None] + squares[1]
        part *= -2
        part += sums
        sums *= SAME
        part *= part > sums
    return d


def pair_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Squared distances (n,) float64 of row i of a (n, D) to row i of b, without the rounding of a product."""
    distances = np.empty(len(a))
    for i in range(0, len(a), 256):
        difference = a[i : i + 256].astype(np.float64) - b[i : i + 256]
        distances[i : i + 256] = np.einsum("nd,nd->n", difference, difference)
    return distances


def directions(x: np.ndarray) -> np.ndarray:
    """Rows of length one, float32; a zero row stays zero, so that its cosine with anything is 0."""
    length = np.sqrt(np.einsum("nd,nd->n", x, x, dtype=np.float64))
    return (x / np.where(length > 0, length, 1)[:, None]).astype(np.float32)


def blocks(n: int, size: int) -> Sequence[slice]:
    return [slice(i, min(i + size, n)) for i in range(0, n, size)]
