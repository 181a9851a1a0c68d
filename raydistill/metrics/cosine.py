"""Cosine between the mean embeddings of the two sets, as ManifoldGD (arXiv 2602.23295) reports it."""

from __future__ import annotations

import numpy as np

from raydistill.metrics.base import Metric, Value
from raydistill.metrics.memory import Moments
from raydistill.registry import register


@register("metric", "cosine")
class Cosine(Metric):
    """mu_real . mu_synthetic / (|mu_real| |mu_synthetic|), the synthetic mean weighted. Not defined for a zero mean."""

    name = "cosine"
    space = "feature"
    summary = "cosine between mean embeddings"
    values = (Value("cosine", "higher", 1.0),)
    real: Moments
    synthetic: Moments

    def sides(self) -> tuple[Moments, Moments]:
        return Moments(), Moments()

    def evaluate(self) -> dict[str, float | None]:
        a, b = self.real.mean, self.synthetic.mean
        lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
        return {"cosine": float(np.clip(a @ b / lengths, -1, 1)) if lengths > 0 else None}
