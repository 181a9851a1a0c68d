"""Exact k-means over all points of a class: k-means++ starts (Arthur & Vassilvitskii 2007), Lloyd by faiss.

faiss on its own would train on 256 points per centroid and start from random points; both are overridden here.
"""

from __future__ import annotations

from dataclasses import dataclass

import faiss
import numpy as np

from raydistill.seeding import generator

ROWS = 32  # whose differences to a start are held at a time


@dataclass(frozen=True)
class Clusters:
    """centroids (K, D) float32; labels (N,) int64; size (K,) int64; sse (K,) float64; medoid (K,) int64 row indices.

    The medoid is the member nearest its centroid. K is at most the number of distinct points.
    """

    centroids: np.ndarray
    labels: np.ndarray
    size: np.ndarray
    sse: np.ndarray
    medoid: np.ndarray


def kmeans(x: np.ndarray, k: int, iterations: int, restarts: int, key: tuple[object, ...]) -> Clusters:
    """Clusters x (N, D) float32 into min(k, distinct points) clusters, largest first (ties by centroid).

    Deterministic in (x, k, iterations, restarts, key) on one thread. Raises ValueError for no points.
    """
    if len(x) == 0 or k < 1:
        raise ValueError(f"cannot make {k} clusters of {len(x)} points")
    faiss.omp_set_num_threads(1)
    x = np.ascontiguousarray(x, np.float32)
    distinct = len({row.tobytes() for row in x + 0.0}) if k > 1 else 1  # + 0.0: minus zero is zero
    k = min(k, distinct)
    best: Clusters | None = None
    for restart in range(restarts):
        found = _lloyd(x, _plus_plus(x, k, generator("kmeans", *key, restart)), iterations)
        if best is None or found.sse.sum() < best.sse.sum():
            best = found
    assert best is not None
    return best


def _plus_plus(x: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """k-means++: each further start is drawn in proportion to its squared distance to the nearest one."""
    chosen = [int(rng.integers(len(x)))]
    nearest = _squared(x, x[chosen[0]])
    while len(chosen) < k:
        mass = np.cumsum(nearest)
        pick = int(np.searchsorted(mass, rng.random() * mass[-1], side="right"))
        pick = min(pick, len(x) - 1)
        if nearest[pick] == 0:
            pick = int(np.argmax(nearest))
        chosen.append(pick)
        nearest = np.minimum(nearest, _squared(x, x[pick]))
    return x[chosen]


def _squared(x: np.ndarray, point: np.ndarray) -> np.ndarray:
    """Squared distances (N,) float64, few rows at a time so that the differences stay in the cache."""
    far, room = np.empty(len(x)), np.empty((ROWS, x.shape[1]), np.float32)
    for i in range(0, len(x), ROWS):
        apart = np.subtract(x[i : i + ROWS], point, out=room[: len(x) - i])
        np.square(apart, out=apart).sum(axis=1, dtype=np.float64, out=far[i : i + ROWS])
    return far


def _lloyd(x: np.ndarray, start: np.ndarray, iterations: int) -> Clusters:
    k = len(start)
    solver = faiss.Kmeans(
        x.shape[1],
        k,
        niter=iterations,
        seed=1,
        min_points_per_centroid=1,
        max_points_per_centroid=max(len(x), 1),
        verbose=False,
    )
    solver.train(x, init_centroids=np.ascontiguousarray(start))
    return of_labels(x, solver.index.search(x, 1)[1][:, 0], k)


def of_labels(x: np.ndarray, labels: np.ndarray, k: int) -> Clusters:
    """The clusters that labels (N,) below k make of x (N, D) float32, largest first (ties by centroid).

    Centroids are the float64 means of their members, so that sizes, means and distances agree exactly.
    """
    size = np.bincount(labels, minlength=k)
    kept = np.flatnonzero(size)
    members = np.split(np.argsort(labels, kind="stable"), np.cumsum(size)[:-1])
    sums = np.stack([x[members[j]].sum(axis=0, dtype=np.float64) for j in kept])
    centroids = (sums / size[kept, None]).astype(np.float32)
    order = np.lexsort((centroids[:, 0], -size[kept]))
    centroids, kept = centroids[order], kept[order]
    rank = np.full(k, -1, np.int64)
    rank[kept] = np.arange(len(kept))
    labels = rank[labels]
    distance = np.square(x - centroids[labels]).sum(axis=1, dtype=np.float64)
    sse = np.bincount(labels, weights=distance, minlength=len(kept))
    medoid = np.array([members[j][np.argmin(distance[members[j]])] for j in kept], np.int64)
    return Clusters(centroids, labels, np.bincount(labels, minlength=len(kept)), sse, medoid)
