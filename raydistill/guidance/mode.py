"""Mode guidance: pull the predicted image towards its prototype (MGD3, arXiv 2505.18963, section 4, alg. 1)."""

from __future__ import annotations

from torch import Tensor

from raydistill.diffusion.loop import Batch
from raydistill.diffusion.prediction import Prediction
from raydistill.guidance.base import Guidance
from raydistill.registry import register


@register("guidance", "mode")
class Mode(Guidance):
    """g_t = m - x0_hat with prototype m, in one of two forms that are not equally strong for the same scale:

    mean     (DDPM, the release):     mu      <- mu      + scale * sigma_t * g_t
    epsilon  (DDIM, the paper's alg. 1): eps_hat <- eps_hat - scale * sqrt(1 - alpha_bar_t) * g_t
    """

    def delta(self, pred: Prediction, batch: Batch) -> Tensor:
        g = batch.prototype - pred.x0_hat
        if self.space == "mean":
            return self.scale * pred.sigma_t * g
        return -self.scale * (1 - pred.step.alpha_bar) ** 0.5 * g
