"""Frechet distance between two Gaussians (Heusel et al. 2017), FID when the features are Inception's.

torchmetrics' FrechetInceptionDistance is the reference in the tests, not the implementation: it knows no weights, and
it takes roots of the eigenvalues of a matrix that is not symmetric, which for a distilled set (fewer images than
features, so a singular covariance) loses half of the digits and costs O(D^3) for a rank of a few dozen.
"""

from __future__ import annotations

import numpy as np

from raydistill.metrics.base import Metric, Value
from raydistill.metrics.memory import Moments, Rows
from raydistill.registry import register


@register("metric", "fid")
class Fid(Metric):
    """|mu_1 - mu_2|^2 + tr(S_1 + S_2 - 2 (S_1^1/2 S_2 S_1^1/2)^1/2), with weighted moments on the synthetic side.

    With S_2 = F^T F the eigenvalues under the root are those of F S_1 F^T, a symmetric matrix as small as the set.
    """

    name = "fid"
    space = "feature"
    summary = "Frechet distance between Gaussians of the features"
    values = (Value("fid", "lower", 0.0),)
    real: Moments
    synthetic: Rows

    def sides(self) -> tuple[Moments, Rows]:
        return Moments(scatter=True), Rows(self.seed)

    def evaluate(self) -> dict[str, float | None]:
        x, _, w = self.synthetic.get()
        p = w / w.sum()
        f = x.astype(np.float64)
        mean = p @ f
        freedom = 1 - p @ p
        f -= mean
        f *= np.sqrt(p / freedom if freedom > 1e-12 else np.zeros_like(p))[:, None]
        trace = np.square(f).sum()
        if len(f) > f.shape[1]:
            f = np.asarray(np.linalg.qr(f, mode="r"))
        s = self.real.covariance
        roots = np.linalg.eigvalsh(f @ s @ f.T)
        # What is below rounding is a null direction, whose root would be far above it.
        roots[roots < max(roots[-1], 0) * len(roots) * np.finfo(np.float64).eps] = 0
        fid = np.square(self.real.mean - mean).sum() + np.trace(s) + trace - 2 * np.sqrt(roots).sum()
        return {"fid": max(float(fid), 0.0)}
