"""A class's tree of prototypes: 2-means again and again, top down (bisecting k-means; ManifoldGD's anchors).

Equal points are one point of larger weight, so that they are never separated and a node of one distinct point is a
leaf. Few points are split by their inner products (twomeans.py), many by Lloyd over chunks (lloyd.py); which of the two
depends on the node alone. The release splits the same way and stops at IPC leaves; its `variance` is taken over all
numbers of a cluster together, here it is the mean squared distance.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from raydistill.clustering.base import Clustering
from raydistill.clustering.lloyd import assign, distances, lloyd, plus_plus
from raydistill.clustering.points import Points, Whole, distinct, float64, gather, one_thread
from raydistill.clustering.tree import Tree
from raydistill.clustering.twomeans import Kernel
from raydistill.registry import register
from raydistill.seeding import generator

Split = Literal["sse", "variance", "size"]
KERNEL = 2048  # most points whose inner products are held (32 MiB); of more, chunks are quicker too
LOWEST = 256  # points below which inner products are quicker whatever the dimension


@register("clustering", "divisive")
@dataclass(frozen=True)
class Divisive(Clustering):
    """A tree that serves every IPC: it does not know of any."""

    summary = "a tree of cluster.leaves leaves, grown top down by 2-means"
    makes: ClassVar[Literal["clusters", "tree"]] = "tree"
    split: Split
    leaves: int
    seed: int
    iterations: int
    split_restarts: int

    def cluster(self, points: Points, class_id: str) -> Tree:
        key = (self.seed, class_id)
        return grow(points, self.leaves, self.split, self.split_restarts, self.iterations, key)


@dataclass
class Cluster:
    """places (n,) among the distinct points, sorted; total (D,) float64; medoid a place; kernel where it is small."""

    places: np.ndarray
    weight: np.ndarray
    total: np.ndarray
    kernel: Kernel | None
    size: int
    sse: float
    medoid: int


def grow(
    points: Points | np.ndarray,
    leaves: int,
    split: Split = "sse",
    restarts: int = 10,
    iterations: int = 100,
    key: tuple[object, ...] = (),
) -> Tree:
    """The tree of points (N, D) with `leaves` leaves, or with as many as there are distinct points.

    At each step the leaf of most SSE, variance (SSE / size) or size is split, of equals the eldest; the larger half is
    numbered first. What a node becomes depends on the points, the key and the node's number: a larger tree begins with
    the smaller one. Deterministic on one kind of machine. Raises ValueError for no points.
    """
    points = Whole(points) if isinstance(points, np.ndarray) else points
    if points.count == 0 or leaves < 1:
        raise ValueError(f"cannot grow {leaves} leaves of {points.count} points")
    with one_thread():
        return _Growth(points, restarts, iterations, key).run(leaves, split)


class _Growth:
    def __init__(self, points: Points, restarts: int, iterations: int, key: tuple[object, ...]) -> None:
        self.points, self.restarts, self.iterations, self.key = points, restarts, iterations, key
        self.rows, self.of = distinct(points)
        weight = np.bincount(self.of).astype(np.float64)
        every = np.arange(len(self.rows))
        self.nodes = [self._cluster(every, weight, self._sum(every, weight), None)]

    def run(self, leaves: int, split: Split) -> Tree:
        parent, step_of = [-1], [0]
        waiting: list[tuple[float, int]] = []

        def wait(node: int) -> None:
            c = self.nodes[node]
            if len(c.places) > 1:
                score = {"sse": c.sse, "variance": c.sse / c.size, "size": float(c.size)}[split]
                heapq.heappush(waiting, (-score, node))

        wait(0)
        leaf = np.zeros(len(self.rows), np.int32)
        for step in range(1, leaves):
            if not waiting:
                break
            node = heapq.heappop(waiting)[1]
            step_of[node] = step
            for child in self._halves(node):
                leaf[child.places] = len(self.nodes)
                self.nodes.append(child)
                parent.append(node)
                step_of.append(0)
                wait(len(self.nodes) - 1)
        return Tree(
            np.array(parent, np.int32),
            np.array(step_of, np.int32),
            np.array([c.size for c in self.nodes], np.int64),
            np.array([c.sse for c in self.nodes]),
            self.rows[[c.medoid for c in self.nodes]],
            np.stack([(c.total / c.size).astype(np.float32) for c in self.nodes]),
            leaf[self.of],
        )

    def _halves(self, node: int) -> list[Cluster]:
        """The two clusters of a node, which gives its inner products up."""
        c, rng = self.nodes[node], generator("divisive", *self.key, node)
        n = len(c.places)
        if c.kernel is None and n <= max(LOWEST, min(self.points.dim, KERNEL)):
            c.kernel = Kernel.of(gather(self.points, self.rows[c.places]), c.weight)
        if c.kernel is not None:
            side = c.kernel.two_means(c.kernel.plus_plus(self.restarts, rng), self.iterations)
        else:
            side = self._by_chunks(c, rng)
        if side is None or side.all() or not side.any():  # points that cannot be told apart by their distances
            side = np.zeros(n, bool)
            side[rng.permutation(n)[: n // 2]] = True
        first, second = np.flatnonzero(~side), np.flatnonzero(side)
        small = min(first, second, key=len)
        part = self._sum(c.places[small], c.weight[small]) if c.kernel is None else c.kernel.total(small)
        halves = [
            self._cluster(
                c.places[p],
                c.weight[p],
                part if p is small else c.total - part,
                c.kernel.take(p) if c.kernel is not None else None,
            )
            for p in (first, second)
        ]
        c.kernel = None
        return sorted(halves, key=lambda m: (-m.size, m.places[0]))

    def _by_chunks(self, c: Cluster, rng: np.random.Generator) -> np.ndarray | None:
        rows = self.rows[c.places]
        start = plus_plus(self.points, rows, c.weight, 2, self.restarts, rng)
        fit = lloyd(self.points, rows, c.weight, start, self.iterations)
        sse = np.where((fit.mass > 0).all(axis=1), fit.sse, np.inf)
        best = int(sse.argmin())
        return assign(self.points, rows, fit.centres[best]) == 1 if np.isfinite(sse[best]) else None

    def _sum(self, places: np.ndarray, weight: np.ndarray) -> np.ndarray:
        total = np.zeros(self.points.dim)
        for part in self.points.map(_weighted, self.rows[places], weight):
            total += part
        return total

    def _cluster(self, places: np.ndarray, weight: np.ndarray, total: np.ndarray, kernel: Kernel | None) -> Cluster:
        size = int(weight.sum())
        if len(places) == 1:
            return Cluster(places, weight, total, kernel, size, 0.0, int(places[0]))
        if kernel is not None:
            distance = np.maximum(kernel.distances(), 0)
        else:
            distance = distances(self.points, self.rows[places], total / size)
        nearest = np.flatnonzero(distance <= distance.min() + 1e-9 * distance.max())[
            0
        ]  # of equally near ones the first
        return Cluster(places, weight, total, kernel, size, float(weight @ distance), int(places[nearest]))


def _weighted(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return weight @ float64(x)
