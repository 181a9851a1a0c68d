"""Exact k-means over all points of a class: k-means++ starts (Arthur & Vassilvitskii 2007), Lloyd by faiss.

faiss on its own would train on 256 points per centroid and start from random points; both are overridden here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import faiss
import numpy as np

from raydistill.clustering.base import Clustering, Clusters, of_labels
from raydistill.clustering.lloyd import kmeans_in_chunks
from raydistill.clustering.points import Points
from raydistill.registry import register
from raydistill.seeding import generator

ROWS = 32  # whose differences to a start are held at a time


@register("clustering", "kmeans")
@dataclass(frozen=True)
class KMeans(Clustering):
    """faiss on a class in memory. One of more than `in_memory` numbers, 256 MiB of float32, goes to Lloyd over chunks,
    whose starts are others: benchmarks/kmeans_speed.py has what one of the two for all classes would cost.
    """

    summary = "k-means of IPC clusters"
    in_memory: ClassVar[int | None] = 2**26
    ipc: int
    seed: int
    iterations: int
    restarts: int

    def cluster(self, points: Points, class_id: str) -> Clusters:
        key = (self.seed, class_id)
        if self.by_chunks(points.count, points.dim):
            return kmeans_in_chunks(points, self.ipc, self.iterations, self.restarts, key)
        return kmeans(points.read().astype(np.float32), self.ipc, self.iterations, self.restarts, key)


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
        clusters = _lloyd(x, _plus_plus(x, k, generator("kmeans", *key, restart)), iterations)
        if best is None or clusters.sse.sum() < best.sse.sum():
            best = clusters
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
    distance, room = np.empty(len(x)), np.empty((ROWS, x.shape[1]), np.float32)
    for i in range(0, len(x), ROWS):
        offset = np.subtract(x[i : i + ROWS], point, out=room[: len(x) - i])
        np.square(offset, out=offset).sum(axis=1, dtype=np.float64, out=distance[i : i + ROWS])
    return distance


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
