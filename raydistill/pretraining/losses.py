"""Training losses: the VAE's ELBO and improved DDPM's hybrid loss for epsilon-models with learned variance."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

VLB_WEIGHT = 0.001


def vae_loss(
    pixels: torch.Tensor, decoded: torch.Tensor, mean: torch.Tensor, log_var: torch.Tensor, kl_weight: float
) -> torch.Tensor:
    """Reconstruction plus weighted KL to the standard normal, a scalar.

    `pixels`, `decoded`: float (B, 3, H, W) in [-1, 1]; `mean`, `log_var`: (B, C, h, w) of the posterior. The
    terms are means over elements: |x - x'| + (x - x')^2, and (mu^2 + s^2 - 1 - log s^2) / 2 (Kingma and Welling 2013,
    appendix B).
    """
    error = decoded - pixels
    return error.abs().mean() + error.square().mean() + kl_weight * gaussian_kl(mean, log_var).mean()


def gaussian_kl(
    mean: torch.Tensor,
    log_var: torch.Tensor,
    other_mean: torch.Tensor | float = 0.0,
    other_log_var: torch.Tensor | float = 0.0,
) -> torch.Tensor:
    """KL(N(mean, exp log_var) || N(other_mean, exp other_log_var)) in nats, elementwise."""
    other = torch.as_tensor(other_log_var, dtype=log_var.dtype, device=log_var.device)
    return 0.5 * (other - log_var + torch.exp(log_var - other) + (mean - other_mean).square() * torch.exp(-other) - 1.0)


@dataclass(frozen=True)
class NoisePath:
    """The linear-beta noise path, each (T,) float32 and indexed by the training time t = 0 .. T-1.

    `log_beta_tilde` is the log posterior variance; at t = 0, where that variance is 0, it repeats the value of t = 1
    (Nichol and Dhariwal 2021). `x0_weight` is the coefficient of x0 in the posterior mean.
    """

    signal: torch.Tensor
    sigma: torch.Tensor
    log_beta: torch.Tensor
    log_beta_tilde: torch.Tensor
    x0_weight: torch.Tensor

    @staticmethod
    def of(alpha_bar: np.ndarray, device: torch.device | str = "cpu") -> NoisePath:
        """`alpha_bar` (T,) float64, falling."""
        before = np.append(1.0, alpha_bar[:-1])
        betas = 1 - alpha_bar / before
        beta_tilde = betas * (1 - before) / (1 - alpha_bar)
        beta_tilde[0] = beta_tilde[1]
        columns = (
            np.sqrt(alpha_bar),
            np.sqrt(1 - alpha_bar),
            np.log(betas),
            np.log(beta_tilde),
            betas * np.sqrt(before) / (1 - alpha_bar),
        )
        return NoisePath(*(torch.from_numpy(c).to(device, torch.float32) for c in columns))

    def noised(self, x0: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """x_t = sqrt(alpha_bar_t) x0 + sqrt(1 - alpha_bar_t) noise; all (B, C, h, w), t (B,) int64."""
        return per_row(self.signal, t) * x0 + per_row(self.sigma, t) * noise

    def log_variance(self, fraction: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Learned log variance: `fraction` (B, C, h, w) in [-1, 1] goes from log beta_tilde_t to log beta_t."""
        v = (fraction + 1) / 2
        return v * per_row(self.log_beta, t) + (1 - v) * per_row(self.log_beta_tilde, t)


def per_row(column: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """column (T,), t (B,) -> (B, 1, 1, 1)."""
    return column[t].reshape(-1, 1, 1, 1)


def squared(error: torch.Tensor) -> torch.Tensor:
    """Mean square of each row, (B, C, h, w) -> (B,)."""
    return error.square().mean(dim=(1, 2, 3))


def variance_loss(
    path: NoisePath, eps_hat: torch.Tensor, fraction: torch.Tensor, noise: torch.Tensor, t: torch.Tensor
) -> torch.Tensor:
    """0.001 L_vlb (Nichol and Dhariwal 2021, eq. 16), (B,), of answers and true noise (B, C, h, w) at t (B,) int64.

    It is the sum over the T times, estimated as T times the term of one, in bits per dimension. eps_hat is detached, so
    that it trains the variance only. The last term is the plain Gaussian likelihood: latents come in no bins.
    """
    return VLB_WEIGHT * len(path.signal) * vlb_term(path, eps_hat.detach(), fraction, noise, t)


def vlb_term(
    path: NoisePath, eps_hat: torch.Tensor, fraction: torch.Tensor, noise: torch.Tensor, t: torch.Tensor
) -> torch.Tensor:
    """Term t of the variational bound in bits per dimension, (B,).

    For t > 0 it is the KL between the true and the predicted step, whose means differ by
    x0_weight (x0 - x0_hat) = x0_weight sigma / signal (eps_hat - noise); for t = 0 the negative log likelihood of x0.
    """
    scale = per_row(path.x0_weight * path.sigma / path.signal, t)
    gap = scale * (eps_hat - noise)
    log_var = path.log_variance(fraction, t)
    kl = gaussian_kl(gap, per_row(path.log_beta_tilde, t).expand_as(gap), 0.0, log_var)
    nll = 0.5 * (math.log(2 * math.pi) + log_var + gap.square() * torch.exp(-log_var))
    term = torch.where(t.reshape(-1, 1, 1, 1) == 0, nll, kl)
    return term.mean(dim=(1, 2, 3)) / math.log(2.0)
