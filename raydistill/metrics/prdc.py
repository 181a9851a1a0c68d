"""Precision and recall (Kynkaanniemi et al. 2019), density and coverage (Naeem et al. 2020), by nearest neighbours."""

from __future__ import annotations

import numpy as np

from raydistill.metrics.base import Metric, Value
from raydistill.metrics.memory import Rows
from raydistill.metrics.sets import blocks, mean, squared_distances
from raydistill.registry import register

BLOCK = 1024


@register("metric", "prdc")
class Prdc(Metric):
    """With B(a) the closed ball about a that reaches the k-th nearest other point of a's own set:

    precision = share of synthetic points in any real ball; recall = share of real points in any synthetic ball;
    density = real balls that a synthetic point is in, mean / k; coverage = share of real balls with a synthetic point.
    Shares and means over synthetic points are by their weights; whatever weighs nothing is none.
    """

    version = 2
    name = "prdc"
    space = "feature"
    summary = "precision, recall, density and coverage by nearest neighbours"
    values = tuple(Value(name, "higher", 1.0) for name in ("precision", "recall", "density", "coverage"))
    k = 5
    limit = 10_000  # rows of either set that are kept
    real: Rows
    synthetic: Rows

    def sides(self) -> tuple[Rows, Rows]:
        return Rows(self.seed, self.limit), Rows(self.seed, self.limit)

    def evaluate(self) -> dict[str, float | None]:
        x = self.real.get()[0]
        z, _, w = self.synthetic.weighing()
        real_reach, synthetic_reach = _reach(x, self.k), _reach(z, self.k)
        holders = np.zeros(len(z), np.int64)
        recalled = covered = 0
        for rows in blocks(len(x), BLOCK):
            d = squared_distances(x[rows], z)
            inside = d <= real_reach[rows, None]
            holders += inside.sum(axis=0)
            covered += int(inside.any(axis=1).sum())
            recalled += int((d <= synthetic_reach).any(axis=1).sum())
        return {
            "precision": mean(holders > 0, w),
            "recall": recalled / len(x) if len(z) > 1 else None,
            "density": mean(holders, w) / min(self.k, max(len(x) - 1, 1)),
            "coverage": covered / len(x),
        }


def _reach(x: np.ndarray, k: int) -> np.ndarray:
    """Squared distance (n,) of each row to its k-th nearest other one; to the farthest if there are fewer."""
    k = min(k, len(x) - 1)
    reach = np.empty(len(x), np.float32)
    for rows in blocks(len(x), BLOCK):
        reach[rows] = np.partition(squared_distances(x[rows], x), k, axis=1)[:, k]  # the 0-th is the row itself
    return reach
