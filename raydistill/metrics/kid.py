"""Kernel distance (Binkowski et al. 2018), KID when the features are Inception's; unbiased, so also for few images.

torchmetrics' KernelInceptionDistance is the reference in the tests, not the implementation: it keeps every real row,
draws its subsets from torch's global generator, takes no weights, and refuses a set smaller than its subsets.
"""

from __future__ import annotations

import numpy as np

from raydistill.metrics.base import Metric, Value
from raydistill.metrics.memory import Rows
from raydistill.metrics.mmd import unbiased
from raydistill.registry import register
from raydistill.seeding import generator


@register("metric", "kid")
class Kid(Metric):
    """Unbiased MMD^2 with k(a, b) = (a.b / D + 1)^3, mean and standard deviation over random subsets."""

    version = 2
    name = "kid"
    space = "feature"
    summary = "unbiased squared MMD with a cubic kernel, over subsets"
    values = (Value("kid", "lower", 0.0), Value("kid_std", None))
    subsets = 100
    subset_size = 1000
    limit = 10_000  # rows of either set that are kept
    real: Rows
    synthetic: Rows

    def sides(self) -> tuple[Rows, Rows]:
        return Rows(self.seed, self.limit), Rows(self.seed, self.limit)

    def evaluate(self) -> dict[str, float | None]:
        x, _, p = self.real.get()
        z, _, q = self.synthetic.weighing()
        size = min(self.subset_size, len(x), len(z))
        subsets = 1 if size == len(x) == len(z) else self.subsets
        estimates = []
        for i in range(subsets):
            rng = generator("kid", self.seed, i)
            r, s = (np.sort(rng.choice(len(v), size, replace=False)) for v in (x, z))
            estimates.append(unbiased(_cubic(x[r], x[r]), _cubic(z[s], z[s]), _cubic(x[r], z[s]), p[r], q[s]))
        known = [v for v in estimates if v is not None]
        if not known:
            return {"kid": None, "kid_std": None}
        return {"kid": float(np.mean(known)), "kid_std": float(np.std(known))}


def _cubic(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(n, m) float64; the products in float32."""
    k = (a @ b.T).astype(np.float64)
    k /= a.shape[1]
    k += 1
    return k * k * k
