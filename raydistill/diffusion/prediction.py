"""What passes between denoiser, guidance and sampler at one step."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from raydistill.diffusion.schedule import Placed, Step


@dataclass(frozen=True)
class Prediction:
    """The network's view of x_t after classifier-free guidance. Tensors are float32 (B, C, h, w).

    `log_variance` is that of x_{t-1} given x_t: learned, or log beta_tilde where the network does not learn it.
    """

    step: Step
    x_t: Tensor
    eps_hat: Tensor
    x0_hat: Tensor
    log_variance: Tensor

    @property
    def sigma_t(self) -> Tensor:
        """Standard deviation of the reverse step, exp(log_variance / 2)."""
        return torch.exp(0.5 * self.log_variance)

    def with_eps(self, eps_hat: Tensor) -> Prediction:
        """The same x_t seen with another noise estimate. A sample whose estimate is the same keeps its x0_hat, which of
        a network that does not predict eps differs from what eps_hat gives by rounding."""
        moved = (eps_hat != self.eps_hat).flatten(1).any(dim=1).view(-1, *[1] * (eps_hat.ndim - 1))
        x0_hat = torch.where(moved, x0_from_eps(self.x_t, eps_hat, self.step), self.x0_hat)
        return replace(self, eps_hat=eps_hat, x0_hat=x0_hat)


@dataclass(frozen=True)
class FlowPrediction:
    """The velocity at x_t = t data + (1 - t) noise after classifier-free guidance; t = 0 is noise, t = 1 data.

    Tensors are float32 (B, C, h, w); v_hat = data - noise as the network expects them from here.
    """

    step: Placed
    t: float
    x_t: Tensor
    v_hat: Tensor

    @property
    def x1_hat(self) -> Tensor:
        """Where the path would end if v_hat stayed: the predicted image."""
        return self.x_t + (1 - self.t) * self.v_hat


def x0_from_eps(x_t: Tensor, eps_hat: Tensor, step: Step) -> Tensor:
    """x0_hat = (x_t - sqrt(1 - alpha_bar) eps_hat) / sqrt(alpha_bar)."""
    return (x_t - (1 - step.alpha_bar) ** 0.5 * eps_hat) / step.alpha_bar**0.5


def log_variance(step: Step, raw: Tensor | None, like: Tensor) -> Tensor:
    """Log variance of the reverse step, (B, C, h, w).

    Learned: interpolation in log space between beta_tilde (raw = -1) and beta (raw = 1) (Nichol & Dhariwal, eq. 15).
    At the last step beta_tilde is 0 and its logarithm is floored; neither noise nor guidance acts there.
    """
    low = torch.tensor(max(step.posterior_variance, 1e-20)).log().item()
    if raw is None:
        return torch.full_like(like, low)
    share = (raw + 1) / 2
    return share * float(torch.tensor(step.beta).log()) + (1 - share) * low
