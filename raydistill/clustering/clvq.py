"""Competitive learning vector quantisation: stochastic descent of the quantisation error (DDOQ, arXiv 2501.07681)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import Self

import numpy as np

from raydistill.clustering.base import Clustering, Clusters
from raydistill.clustering.points import Points
from raydistill.clustering.streams import EVEN, batches, quantise, stream
from raydistill.config import Config
from raydistill.registry import register


@register("clustering", "clvq")
@dataclass(frozen=True)
class Clvq(Clustering):
    """n_k <- n_k + 1, z_k <- z_k + (z - z_k) / n_k for the atom z_k that is nearest to the next point z.

    With `cluster.batch` above 1, so many points are given to the atoms as they stand, which then move to the means of
    all that they ever got: mini-batch k-means (Sculley 2010). By default these are ten an atom, as in D4M's code.
    `cluster.passes` over the points go on with the counts.
    """

    summary = "IPC atoms by CLVQ: a stream of points, each of which moves its nearest atom"
    ipc: int
    seed: int
    batch: int
    passes: int

    @classmethod
    def of(cls, config: Config) -> Self:
        clvq = super().of(config)
        return replace(clvq, batch=clvq.batch or EVEN * clvq.ipc)

    def more_even(self) -> str | None:
        return f"cluster.batch={EVEN * self.ipc}" if self.batch < EVEN * self.ipc else None

    def cluster(self, points: Points, class_id: str) -> Clusters:
        def learn(points: Points, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            chunks = chain.from_iterable(stream(points) for _ in range(self.passes))
            return one_by_one(chunks, start) if self.batch == 1 else by_batches(batches(chunks, self.batch), start)

        return quantise(points, self.ipc, learn, (self.seed, class_id))


def one_by_one(chunks: Iterator[np.ndarray], start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Atoms (k, D) float64 and counts n (k,) int64 after every point of chunks (m, D), from start (k, D)."""
    z, n = start.astype(np.float64), np.zeros(len(start), np.int64)
    half = 0.5 * np.einsum("kd,kd->k", z, z)  # |x - z|^2 / 2 = |x|^2 / 2 - x z + half
    for chunk in chunks:
        for x in chunk:
            k = int((z @ x - half).argmax())
            n[k] += 1
            z[k] += (x - z[k]) / n[k]
            half[k] = 0.5 * z[k] @ z[k]
    return z, n


def by_batches(chunks: Iterator[np.ndarray], start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same for batches (m, D) at a time."""
    z, n = start.astype(np.float64), np.zeros(len(start), np.int64)
    for x in chunks:
        nearest = (x @ z.T - 0.5 * np.einsum("kd,kd->k", z, z)).argmax(axis=1)
        more = np.bincount(nearest, minlength=len(z))
        n += more
        for k in np.flatnonzero(more):
            z[k] += (x[nearest == k] - z[k]).sum(axis=0) / n[k]
    return z, n
