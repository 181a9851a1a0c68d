"""Wasserstein-2 distance of the latents of a class to its weighted atoms (DDOQ, arXiv 2501.07681)."""

from __future__ import annotations

import numpy as np

from raydistill.metrics.base import Metric, Value
from raydistill.metrics.memory import Rows
from raydistill.metrics.sets import by_class, class_mean, squared_distances
from raydistill.registry import register

ITERATIONS = 10_000_000


@register("metric", "wasserstein")
class Wasserstein(Metric):
    """W2^2 of a class: exact optimal transport of its real latents, mass 1/N each, onto its synthetic ones with their
    weights; mean over classes. `w2_squared_voronoi` is the same with the best weights that these atoms can have, the
    mass of their Voronoi cells: the mean squared distance to the nearest atom, a lower bound.
    """

    name = "wasserstein"
    space = "latent"
    summary = "squared Wasserstein-2 distance of each class, given weights and best ones"
    values = (Value("w2_squared", "lower", 0.0), Value("w2_squared_voronoi", "lower", 0.0))
    limit = 1300  # real rows of a class that are kept: every one of an ImageNet class
    real: Rows
    synthetic: Rows

    def sides(self) -> tuple[Rows, Rows]:
        return Rows(self.seed, self.limit, by_class=True), Rows(self.seed)

    def evaluate(self) -> dict[str, float | None]:
        x, yx, _ = self.real.get()
        z, yz, w = self.synthetic.get()
        weighted: list[float | None] = []
        voronoi: list[float | None] = []
        for r, s in zip(by_class(yx, self.classes), by_class(yz, self.classes), strict=True):
            s = s[w[s] > 0]
            cost = squared_distances(x[r], z[s]).astype(np.float64) if len(r) and len(s) else None
            weighted.append(None if cost is None else transport(cost, w[s]))
            voronoi.append(None if cost is None else float(cost.min(axis=1).mean()))
        return {"w2_squared": class_mean(weighted), "w2_squared_voronoi": class_mean(voronoi)}


def transport(cost: np.ndarray, weights: np.ndarray) -> float:
    """Least cost of moving mass 1/N from each of N rows onto columns that take weights (K,) / sum. cost (N, K) float64.

    Raises ValueError if the network simplex does not finish.
    """
    from ot.lp import emd2  # seconds to import, as it imports every array library there is

    mass = np.full(len(cost), 1 / len(cost))
    value, log = emd2(mass, weights / weights.sum(), cost, numItermax=ITERATIONS, log=True)
    if log["warning"]:
        raise ValueError(f"wasserstein: optimal transport of {cost.shape} did not finish: {log['warning']}")
    return float(value)
