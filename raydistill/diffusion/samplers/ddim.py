"""Deterministic DDIM (Song et al. 2021, eq. 12 with eta = 0)."""

from __future__ import annotations

from torch import Tensor

from raydistill.diffusion.prediction import Prediction
from raydistill.registry import register


@register("sampler", "ddim")
class Ddim:
    """x_{t-1} = sqrt(alpha_bar_prev) x0_hat + sqrt(1 - alpha_bar_prev) eps_hat. There is no mean noise to scale by."""

    spaces = ("epsilon",)
    stochastic = False

    def step(self, pred: Prediction, mean_shift: Tensor | None, noise: Tensor | None) -> Tensor:
        if mean_shift is not None or noise is not None:
            raise ValueError("DDIM takes neither a mean shift nor noise")
        s = pred.step
        return s.alpha_bar_prev**0.5 * pred.x0_hat + (1 - s.alpha_bar_prev) ** 0.5 * pred.eps_hat
