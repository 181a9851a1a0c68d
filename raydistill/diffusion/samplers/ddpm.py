"""DDPM ancestral sampling (Ho et al. 2020, algorithm 2), with learned or posterior variance."""

from __future__ import annotations

from torch import Tensor

from raydistill.diffusion.prediction import Prediction
from raydistill.registry import register


@register("sampler", "ddpm")
class Ddpm:
    """x_{t-1} = mu(x_t, x0_hat) + delta + 1[index > 0] sigma_t z."""

    spaces = ("mean", "epsilon")
    stochastic = True

    def step(self, pred: Prediction, mean_shift: Tensor | None, noise: Tensor | None) -> Tensor:
        """`mean_shift` (B, C, h, w) joins the posterior mean; `noise` is standard normal, None at the last step."""
        s = pred.step
        from_x0 = s.alpha_bar_prev**0.5 * s.beta / (1 - s.alpha_bar)
        from_xt = (s.alpha_bar / s.alpha_bar_prev) ** 0.5 * (1 - s.alpha_bar_prev) / (1 - s.alpha_bar)
        mean = from_x0 * pred.x0_hat + from_xt * pred.x_t
        if mean_shift is not None:
            mean = mean + mean_shift
        return mean if noise is None else mean + pred.sigma_t * noise
