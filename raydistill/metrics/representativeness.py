"""Representativeness (Gu et al. 2024), as ManifoldGD's released evaluation computes it."""

from __future__ import annotations

import numpy as np

from raydistill.metrics.base import Metric, Value
from raydistill.metrics.memory import Rows
from raydistill.metrics.sets import blocks, by_class, class_mean, directions
from raydistill.registry import register


@register("metric", "representativeness")
class Representativeness(Metric):
    """min over synthetic images of the largest cosine to any real one: how near its data the worst image is.

    Of images that weigh anything. Over the whole sets; `representativeness_class` is the mean over classes of the same
    within a class.
    """

    version = 2
    name = "representativeness"
    space = "feature"
    summary = "cosine of the worst synthetic image to its nearest real one"
    values = (Value("representativeness", "higher", 1.0), Value("representativeness_class", "higher", 1.0))
    limit = 50_000  # real rows that are kept
    real: Rows
    synthetic: Rows

    def sides(self) -> tuple[Rows, Rows]:
        return Rows(self.seed, self.limit), Rows(self.seed)

    def evaluate(self) -> dict[str, float | None]:
        x, yx, _ = self.real.get()
        z, yz, _ = self.synthetic.weighing()
        x, z = directions(x), directions(z)
        return {
            "representativeness": _worst(x, z),
            "representativeness_class": class_mean(
                _worst(x[r], z[s]) if len(r) and len(s) else None
                for r, s in zip(by_class(yx, self.classes), by_class(yz, self.classes), strict=True)
            ),
        }


def _worst(x: np.ndarray, z: np.ndarray) -> float:
    best = np.full(len(z), -1.0, np.float32)
    for rows in blocks(len(x), 4096):
        np.maximum(best, (z @ x[rows].T).max(axis=1), out=best)
    return min(float(best.min()), 1.0)
