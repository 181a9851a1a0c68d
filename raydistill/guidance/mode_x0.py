"""Mode guidance in the form that a release has for DDIM: the predicted image itself is moved (ManifoldGD's code)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from raydistill.config import Space
from raydistill.diffusion.loop import Batch
from raydistill.diffusion.prediction import Prediction
from raydistill.guidance.base import Guidance
from raydistill.registry import register


@register("guidance", "mode_x0")
class ModeX0(Guidance):
    """x0_hat <- x0_hat + scale * (m - x0_hat) with prototype m, from which eps_hat is derived again.

    That is eps_hat <- eps_hat - scale * sqrt(alpha_bar_t / (1 - alpha_bar_t)) * (m - x0_hat): next to nothing while
    noise is high, where mode guidance acts.
    """

    spaces: ClassVar[tuple[Space, ...]] = ("epsilon",)

    def delta(self, pred: Prediction, batch: Batch) -> Tensor:
        snr = pred.step.alpha_bar / (1 - pred.step.alpha_bar)
        return -self.scale * snr**0.5 * (batch.prototype - pred.x0_hat)
