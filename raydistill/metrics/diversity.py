"""Diversity (Gu et al. 2024), as ManifoldGD's released evaluation computes it."""

from __future__ import annotations

import numpy as np

from raydistill.metrics.base import Metric, Value
from raydistill.metrics.memory import Moments, Rows
from raydistill.metrics.sets import blocks, by_class, class_mean, directions
from raydistill.registry import register


@register("metric", "diversity")
class Diversity(Metric):
    """1 - the largest cosine between two synthetic images: how far apart the most alike ones are. Asks nothing real.

    Of images that weigh anything. Over the whole set; `diversity_class` is the mean over classes of the same within a
    class; one image has none.
    """

    version = 2
    name = "diversity"
    space = "feature"
    summary = "1 - cosine of the two most alike synthetic images"
    values = (Value("diversity", "higher"), Value("diversity_class", "higher"))
    real: Moments
    synthetic: Rows

    def sides(self) -> tuple[Moments, Rows]:
        return Moments(), Rows(self.seed)

    def evaluate(self) -> dict[str, float | None]:
        z, y, _ = self.synthetic.weighing()
        z = directions(z)
        return {
            "diversity": _apart(z),
            "diversity_class": class_mean(_apart(z[rows]) for rows in by_class(y, self.classes)),
        }


def _apart(z: np.ndarray) -> float | None:
    if len(z) < 2:
        return None
    most = -1.0
    for rows in blocks(len(z), 4096):
        c = z[rows] @ z.T
        c[np.arange(len(c)), np.arange(rows.start, rows.stop)] = -1
        most = max(most, float(c.max()))
    return 1 - min(most, 1.0)
