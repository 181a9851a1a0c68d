"""Quantisers that see the points of a class one after the other: what their streams and their last pass share.

The order is that of the rows, which is by image id. What a stream learns depends on it and does not merge, so that a
class is one stream wherever its rows lie; the last pass, which gives every point to its atom, is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from raydistill.clustering.base import Clusters
from raydistill.clustering.lloyd import assign, clusters_of, distances_to_own, plus_plus
from raydistill.clustering.points import Points, distinct, gather, one_thread
from raydistill.seeding import generator

START = 2048  # distinct points, the first of the stream, among which the atoms start
# Points an atom that are taken at a time, from which on cells are far more even. In many dimensions points lie farther
# from each other than from any mean, so that whichever atom is the first to be a mean has nearly all that come after.
EVEN = 10

# (points, starts (k, D) float64) -> atoms (k, D) float64, points (k,) int64 that the stream gave each, if known
Learn = Callable[[Points, np.ndarray], tuple[np.ndarray, np.ndarray | None]]


def quantise(points: Points, k: int, learn: Learn, key: tuple[object, ...]) -> Clusters:
    """min(k, distinct points) atoms where `learn` leaves them, largest cell first (ties by atom).

    Starts are drawn by k-means++ among the first START distinct points. No more distinct points than k are the atoms
    themselves. An atom that is nearest to no point becomes the point that is farthest from its own. Raises ValueError
    for no points.
    """
    if points.count == 0 or k < 1:
        raise ValueError(f"cannot make {k} atoms of {points.count} points")
    with one_thread():
        rows, of = distinct(points)
        if len(rows) <= k:
            every, x = np.arange(len(rows)), gather(points, rows)
            return clusters_of(points, rows, every, of, x, np.bincount(of))
        first = rows[: max(START, k)]
        weight = np.bincount(of)[: len(first)].astype(np.float64)
        start = plus_plus(points, first, weight, k, 1, generator("stream", *key))[0]
        atoms, seen = learn(points, start)
        atoms, labels = without_empty(points, rows, atoms)
        return clusters_of(points, rows, labels, of, atoms, seen)


def stream(points: Points) -> Iterator[np.ndarray]:
    """Chunks (m, D) float64 of all points, in order."""
    for chunk in points.map(_as_stored, np.arange(points.count)):
        yield chunk.astype(np.float64)


def batches(chunks: Iterator[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """The same points, `size` at a time; the last batch holds what is left."""
    waiting = np.zeros((0, 0))
    for chunk in chunks:
        waiting = np.concatenate([waiting, chunk]) if len(waiting) else chunk
        whole = len(waiting) // size * size
        yield from np.split(waiting[:whole], whole // size) if whole else ()
        waiting = waiting[whole:]
    if len(waiting):
        yield waiting


def without_empty(points: Points, rows: np.ndarray, atoms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Atoms (k, D), each the nearest one of some point, and that assignment of the points `rows`, (n,) int64.

    `rows` are more distinct points than atoms, so that each turn takes from the SSE and there is an end.
    """
    atoms = atoms.copy()
    while True:
        labels = assign(points, rows, atoms)
        empty = np.setdiff1d(np.arange(len(atoms)), labels)
        if not len(empty):
            return atoms, labels
        farthest = int(distances_to_own(points, rows, labels, atoms).argmax())
        atoms[empty[0]] = gather(points, rows[[farthest]])[0]


def _as_stored(x: np.ndarray) -> np.ndarray:
    return x
