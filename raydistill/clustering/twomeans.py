"""2-means of a few points from their inner products alone: a step costs n^2, however many numbers a point has.

With K = X X^T and A the 0/1 membership of R restarts, K A holds every inner product that Lloyd's algorithm asks for, so
all restarts share one product of matrices (kernel k-means with the linear kernel; Dhillon et al. 2004).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from raydistill.clustering.lloyd import weighted_draw


@dataclass(frozen=True)
class Kernel:
    """Points x[at] (n, D) by k (n, n) float64 their inner products, weight (n,) and dot_total = k @ weight (n,)."""

    x: np.ndarray
    at: np.ndarray
    k: np.ndarray
    weight: np.ndarray
    dot_total: np.ndarray

    @classmethod
    def of(cls, x: np.ndarray, weight: np.ndarray) -> Kernel:
        k = x @ x.T
        return cls(x, np.arange(len(x)), k, weight, k @ weight)

    def take(self, part: np.ndarray) -> Kernel:
        """The same of some of the points, given by sorted positions."""
        k, weight = self.k[part][:, part], self.weight[part]
        return Kernel(self.x, self.at[part], k, weight, k @ weight)

    def total(self, part: np.ndarray) -> np.ndarray:
        """The weighted sum of some of the points, (D,)."""
        return self.weight[part] @ self.x[self.at[part]]

    def distances(self) -> np.ndarray:
        """Squared distances to the mean, (n,)."""
        mass = self.weight.sum()
        return self.k.diagonal() - 2 * self.dot_total / mass + (self.weight @ self.dot_total) / mass**2

    def plus_plus(self, restarts: int, rng: np.random.Generator) -> np.ndarray:
        """k-means++ starts as positions (2, R)."""
        draws = rng.random((2, restarts))
        first = np.searchsorted(np.cumsum(self.weight), draws[0] * self.weight.sum(), side="right")
        first = np.minimum(first, len(self.weight) - 1)
        square = self.k.diagonal()
        distance = np.maximum(square[:, None] + square[first] - 2 * self.k[:, first], 0)
        distance[first, np.arange(restarts)] = 0
        return np.stack([first, weighted_draw(distance * self.weight[:, None], draws[1])])

    def two_means(self, starts: np.ndarray, iterations: int) -> np.ndarray | None:
        """The second of the two clusters of the best restart as a mask (n,), or None if none has two clusters.

        Of equally near centres a point takes the first.
        """
        square, mass = self.k.diagonal(), self.weight.sum()
        whole = self.weight @ self.dot_total
        closeness = self.k[:, starts] - 0.5 * square[starts]  # x c - |c|^2 / 2, larger is nearer
        side = closeness[:, 1] > closeness[:, 0]
        for _ in range(iterations):
            member = side * self.weight[:, None]
            second = self.k @ member  # x times the sum of the second cluster
            mass2 = member.sum(axis=0)
            mass1 = mass - mass2
            norm2 = np.einsum("nr,nr->r", member, second)
            norm1 = whole - 2 * (self.dot_total @ member) + norm2
            with np.errstate(divide="ignore", invalid="ignore"):
                explained = norm1 / mass1 + norm2 / mass2
                near1 = (self.dot_total[:, None] - second) / mass1 - 0.5 * norm1 / mass1**2
                near2 = second / mass2 - 0.5 * norm2 / mass2**2
            before, side = side, near2 > near1
            if np.array_equal(before, side):
                break
        explained[~np.isfinite(explained)] = -np.inf
        best = int(explained.argmax())
        return before[:, best] if np.isfinite(explained[best]) else None
