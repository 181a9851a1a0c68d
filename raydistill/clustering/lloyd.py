"""Lloyd's algorithm over chunks: several restarts in one pass, sums in float64 in the order of the chunks.

One code for a class in one process and for a class that is split over tasks: a chunk's part of every sum is one product
of fixed shape, so that the result does not depend on who computes which chunk (points.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from raydistill.clustering.base import Clusters
from raydistill.clustering.points import Points, distinct, float64, one_thread, pick
from raydistill.seeding import generator


@dataclass(frozen=True)
class Fit:
    """centres (R, k, D) float64 after the last step; sse (R,) float64; mass (R, k) float64, 0 for an empty cluster."""

    centres: np.ndarray
    sse: np.ndarray
    mass: np.ndarray


def lloyd(points: Points, rows: np.ndarray, weight: np.ndarray, start: np.ndarray, iterations: int) -> Fit:
    """Weighted k-means of the points `rows` (n,), of weight (n,) float64, from R starts (R, k, D) at once.

    Stops when no centre moves any more, or after `iterations` steps. An empty cluster keeps its centre.
    """
    centres = start.astype(np.float64)
    sse, mass = np.zeros(len(start)), np.zeros(start.shape[:2])
    moving = np.arange(len(start))
    for _ in range(iterations):
        old = centres[moving]
        sums, mass[moving], sse[moving] = _total(points, rows, weight, old)
        with np.errstate(invalid="ignore"):
            new = np.where(mass[moving][..., None] > 0, sums / mass[moving][..., None], old)
        centres[moving] = new
        moving = moving[(new != old).any(axis=(1, 2))]
        if not len(moving):
            break
    return Fit(centres, sse, mass)


def assign(points: Points, rows: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """The nearest of centres (k, D) of each of the points `rows`, (n,) int64; of equally near ones the first."""
    return np.concatenate(list(points.map(partial(_nearest, centres=centres[None]), rows)))[:, 0]


def distances(points: Points, rows: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Squared distances (n,) float64 of the points `rows` to centre (D,)."""
    return np.concatenate(list(points.map(partial(_apart, centre=centre), rows)))


def distances_to_own(points: Points, rows: np.ndarray, labels: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Squared distances (n,) float64 of the points `rows` to those of centres (k, D) that labels (n,) name."""
    return np.concatenate(list(points.map(partial(_own, centres=centres), rows, labels)))


def plus_plus(
    points: Points, rows: np.ndarray, weight: np.ndarray, k: int, restarts: int, rng: np.random.Generator
) -> np.ndarray:
    """k-means++ starts (R, k, D) float64 (Arthur & Vassilvitskii 2007), all restarts in one pass a centre."""
    draws = rng.random((k, restarts))
    first = np.searchsorted(np.cumsum(weight), draws[0] * weight.sum(), side="right")
    chosen = [pick(points, rows[np.minimum(first, len(rows) - 1)])]
    nearest = np.full((len(rows), restarts), np.inf)
    for j in range(1, k):
        distance = np.concatenate(list(points.map(partial(_cross, centres=chosen[-1]), rows)))
        nearest = np.minimum(nearest, distance)
        chosen.append(pick(points, rows[weighted_draw(nearest * weight[:, None], draws[j])]))
    return np.stack(chosen, axis=1)


def weighted_draw(mass: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """One row a column of mass (n, R), in proportion to it, by draws (R,) from [0, 1). Zero mass only if all is."""
    total = np.cumsum(mass, axis=0)
    drawn = np.minimum((total <= draws * total[-1]).sum(axis=0), len(mass) - 1)
    columns = np.arange(mass.shape[1])
    return np.where(mass[drawn, columns] > 0, drawn, mass.argmax(axis=0))


def kmeans_in_chunks(points: Points, k: int, iterations: int, restarts: int, key: tuple[object, ...]) -> Clusters:
    """What `kmeans` finds, for a class too large to be held as float32: the same starts rule, Lloyd over chunks.

    Returns the same as `kmeans`, in the same order. Raises ValueError for no points.
    """
    if points.count == 0 or k < 1:
        raise ValueError(f"cannot make {k} clusters of {points.count} points")
    with one_thread():
        rows, of = distinct(points)
        weight = np.bincount(of).astype(np.float64)
        start = plus_plus(points, rows, weight, min(k, len(rows)), restarts, generator("kmeans_in_chunks", *key))
        fit = lloyd(points, rows, weight, start, iterations)
        labels = assign(points, rows, fit.centres[fit.sse.argmin()])
        return clusters_of(points, rows, labels, of)


def clusters_of(
    points: Points,
    rows: np.ndarray,
    labels: np.ndarray,
    of: np.ndarray,
    atoms: np.ndarray | None = None,
    seen: np.ndarray | None = None,
) -> Clusters:
    """The clusters of labels (n,) of the distinct points `rows`, largest first (ties by centroid); `of` (N,) is the
    place of every row's point among them.

    Centroids are atoms (k, D), or the float64 means of their members. `seen` (k,) goes along.
    """
    weight = np.bincount(of).astype(np.float64)
    k = int(labels.max()) + 1
    size = np.bincount(labels, weights=weight, minlength=k).astype(np.int64)
    kept = np.flatnonzero(size)
    means = _means(points, rows, weight, labels, k) if atoms is None else atoms
    centroids = means[kept].astype(np.float32)
    order = np.lexsort((centroids[:, 0], -size[kept]))
    rank = np.full(k, -1, np.int64)
    rank[kept[order]] = np.arange(len(kept))
    labels, centroids = rank[labels], centroids[order]
    distance = distances_to_own(points, rows, labels, centroids)
    sse = np.bincount(labels, weights=distance * weight, minlength=len(kept))
    medoid = [int(rows[m[distance[m].argmin()]]) for m in (np.flatnonzero(labels == j) for j in range(len(kept)))]
    seen_by_cluster = None if seen is None else seen[kept][order]
    return Clusters(centroids, labels[of], size[kept][order], sse, np.array(medoid, np.int64), seen_by_cluster)


def _means(points: Points, rows: np.ndarray, weight: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """(k, D) float64; NaN for a cluster without a member."""
    sums = np.zeros((k, points.dim))
    for part in points.map(partial(_sums, k=k), rows, weight, labels):
        sums += part
    with np.errstate(invalid="ignore"):
        return sums / np.bincount(labels, weights=weight, minlength=k)[:, None]


def _total(
    points: Points, rows: np.ndarray, weight: np.ndarray, centres: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """sums (R, k, D), mass (R, k) and SSE (R,) around the means of the assignment to `centres`."""
    sums, mass, square = np.zeros(centres.shape), np.zeros(centres.shape[:2]), 0.0
    for part_sums, part_mass, part_square in points.map(partial(_step, centres=centres), rows, weight):
        sums += part_sums
        mass += part_mass
        square += part_square
    with np.errstate(invalid="ignore"):
        explained = np.where(mass > 0, np.einsum("rkd,rkd->rk", sums, sums) / mass, 0).sum(axis=1)
    return sums, mass, square - explained


# ---- of one chunk x (m, D) -----------------------------------------------------------------------------------------


def _step(x: np.ndarray, weight: np.ndarray, centres: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    x, (restarts, k, dim) = float64(x), centres.shape
    member = np.zeros((len(x), restarts, k))
    np.put_along_axis(member, _nearest(x, centres)[..., None], weight[:, None, None], axis=2)
    sums = (member.reshape(len(x), -1).T @ x).reshape(restarts, k, dim)
    return sums, member.sum(axis=0), float(weight @ np.einsum("nd,nd->n", x, x))


def _nearest(x: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """(m, R) int64. |x|^2 is the same for every centre and left out."""
    x, (restarts, k, dim) = float64(x), centres.shape
    half = 0.5 * np.einsum("rkd,rkd->rk", centres, centres)
    return ((x @ centres.reshape(-1, dim).T).reshape(-1, restarts, k) - half).argmax(axis=2)


def _cross(x: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Squared distances (m, R) to centres (R, D), never negative."""
    x = float64(x)
    square = np.einsum("nd,nd->n", x, x)[:, None] + np.einsum("rd,rd->r", centres, centres)
    return np.maximum(square - 2 * (x @ centres.T), 0)


def _apart(x: np.ndarray, centre: np.ndarray) -> np.ndarray:
    offset = float64(x) - centre
    return np.einsum("nd,nd->n", offset, offset)


def _own(x: np.ndarray, labels: np.ndarray, centres: np.ndarray) -> np.ndarray:
    return _apart(x, float64(centres[labels]))


def _sums(x: np.ndarray, weight: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    member = np.zeros((len(x), k))
    member[np.arange(len(x)), labels] = weight
    return member.T @ float64(x)
