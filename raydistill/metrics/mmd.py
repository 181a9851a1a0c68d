"""Maximum mean discrepancy (Gretton et al. 2012) with an RBF kernel, as ManifoldGD (arXiv 2602.23295) reports it."""

from __future__ import annotations

import numpy as np

from raydistill.metrics.base import Metric, Value
from raydistill.metrics.memory import Rows
from raydistill.metrics.sets import blocks, squared_distances
from raydistill.registry import register


@register("metric", "mmd")
class Mmd(Metric):
    """sqrt(max(MMD^2, 0)), unbiased, k(a, b) = exp(-|a - b|^2 / median), the median over pairs of both sets."""

    version = 2
    name = "mmd"
    space = "both"
    summary = "root of the unbiased squared MMD, RBF kernel of median width"
    values = (Value("mmd", "lower", 0.0),)
    limit = 6000  # rows of either set that are kept
    pool = 5000  # rows, of both sets in their proportion, whose distances give the median
    real: Rows
    synthetic: Rows

    def sides(self) -> tuple[Rows, Rows]:
        return Rows(self.seed, self.limit), Rows(self.seed, self.limit)

    def evaluate(self) -> dict[str, float | None]:
        x, _, p = self.real.get()
        z, _, q = self.synthetic.weighing()
        kernels = squared_distances(x, x), squared_distances(z, z), squared_distances(x, z)
        width = self._width(*kernels)
        for k in kernels:
            k *= -1 / width if width > 0 else 0
            np.exp(k, out=k)
        squared = unbiased(*kernels, p, q)
        return {"mmd": None if squared is None else max(squared, 0.0) ** 0.5}

    def _width(self, xx: np.ndarray, zz: np.ndarray, xz: np.ndarray) -> float:
        """Median over pairs; their mean if half of the pairs coincide. The first rows are a random part of each set."""
        n, m = xz.shape
        share = min(1.0, self.pool / (n + m))
        n, m = max(1, round(share * n)), max(1, round(share * m))
        above = [k[:size, :size][~np.tri(size, dtype=bool)] for k, size in ((xx, n), (zz, m))]
        pooled = np.concatenate([*above, xz[:n, :m].ravel()])
        return float(np.median(pooled, overwrite_input=True)) or float(pooled.mean(dtype=np.float64))


def unbiased(kxx: np.ndarray, kzz: np.ndarray, kxz: np.ndarray, p: np.ndarray, q: np.ndarray) -> float | None:
    """MMD^2 of kernel matrices (n, n), (m, m), (n, m) and weights (n,), (m,); None if a side has but one row of weight.

    sum_{i != j} p_i p_j k_ij / (1 - sum p^2), likewise for q, minus twice p k q, with p and q summing to one: the
    U-statistic when the weights are equal. Summed in float64.
    """
    if not (p.sum() > 0 and q.sum() > 0):
        return None
    p, q = p / p.sum(), q / q.sum()
    free = 1 - p @ p, 1 - q @ q
    if min(free) <= 1e-12:
        return None
    within = [
        (_quadratic(k, v, v) - np.square(v) @ k.diagonal()) / f for k, v, f in ((kxx, p, free[0]), (kzz, q, free[1]))
    ]
    return float(within[0] + within[1] - 2 * _quadratic(kxz, p, q))


def _quadratic(k: np.ndarray, p: np.ndarray, q: np.ndarray) -> float:
    return float(sum(p[rows] @ (k[rows].astype(np.float64) @ q) for rows in blocks(len(k), 512)))
