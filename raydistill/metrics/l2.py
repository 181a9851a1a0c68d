"""Distance between the mean embeddings of the two sets, as ManifoldGD (arXiv 2602.23295) reports it."""

from __future__ import annotations

import numpy as np

from raydistill.metrics.base import Metric, Value
from raydistill.metrics.memory import Moments
from raydistill.registry import register


@register("metric", "l2")
class L2(Metric):
    """|mu_real - mu_synthetic|, the synthetic mean weighted. The whole sets, not class by class."""

    name = "l2"
    space = "feature"
    summary = "distance between mean embeddings"
    values = (Value("l2", "lower", 0.0),)
    real: Moments
    synthetic: Moments

    def sides(self) -> tuple[Moments, Moments]:
        return Moments(), Moments()

    def evaluate(self) -> dict[str, float | None]:
        return {"l2": float(np.linalg.norm(self.real.mean - self.synthetic.mean))}
