"""What a generator learns: the noise, v, or the velocity of the linear path, at the noise levels that it is shown.

One description, the parametrisation by which samplers read a network, says what to train it towards: nothing about
signs or times is said twice. Latents z are in generator space.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from scipy.special import expit, ndtri
from torch import Tensor

from raydistill.models.parametrisation import OfDiffusion, OfFlow, Parametrisation
from raydistill.pretraining.losses import NoisePath, per_row, squared, variance_loss


class FlowObjective:
    """x = (1 - sigma) z + sigma eps with sigma the noise level; mean |v_hat - v|^2 (Lipman et al. 2023)."""

    def __init__(self, predicts: OfFlow) -> None:
        self.predicts = predicts

    def shown(self, z: Tensor, noise: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """What the network is shown and the times (B,) that it is told, at noise levels (B,) float64 in [0, 1)."""
        sigma = level.float().reshape(-1, 1, 1, 1)
        steps = self.predicts.steps
        return (1 - sigma) * z + sigma * noise, (steps * level if steps else 1 - level).float()

    def loss(self, out: Tensor, z: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """Loss of its answers (B,), 0 for perfect ones."""
        return squared(out - self.predicts.sign * (z - noise))


class DiffusionObjective:
    """x = a z + s eps at training time floor(T level); mean |eps_hat - eps|^2 or |v_hat - v|^2 with v = a eps - s z.

    With a learned variance, the answer's second half, 0.001 L_vlb is added (Nichol and Dhariwal 2021).
    """

    def __init__(self, predicts: OfDiffusion, learned_variance: bool, device: torch.device | str = "cpu") -> None:
        self.predicts, self.learned_variance = predicts, learned_variance
        self.path = NoisePath.of(predicts.alphas_bar, device)

    def times(self, level: Tensor) -> Tensor:
        count = len(self.path.signal)
        return (level * count).long().clamp(0, count - 1)

    def shown(self, z: Tensor, noise: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """As of a flow."""
        t = self.times(level)
        return self.path.noised(z, noise, t), t

    def loss(self, out: Tensor, z: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """As of a flow, but for the variance that it may have to learn as well."""
        t = self.times(level)
        answer = out[:, : z.shape[1]]
        if self.predicts.predicts == "epsilon":
            loss, eps_hat = squared(answer - noise), answer
        else:
            a, s = per_row(self.path.signal, t), per_row(self.path.sigma, t)
            loss = squared(answer - (a * noise - s * z))
            eps_hat = a * answer + s * (a * z + s * noise)
        if not self.learned_variance:
            return loss
        return loss + variance_loss(self.path, eps_hat, out[:, z.shape[1] :], noise, t)


def objective(
    predicts: Parametrisation, learned_variance: bool, device: torch.device | str = "cpu"
) -> FlowObjective | DiffusionObjective:
    """What trains a network to predict what `predicts` reads."""
    if isinstance(predicts, OfFlow):
        return FlowObjective(predicts)
    assert isinstance(predicts, OfDiffusion)
    return DiffusionObjective(predicts, learned_variance, device)


def levels(rng: np.random.Generator, size: int, time: Literal["uniform", "logit_normal"]) -> np.ndarray:
    """Noise levels (size,) float64 in [0, 1), one from each of `size` equal parts of their distribution.

    Stratifying leaves the expected loss as it is and takes out most of what the draw of levels adds to its variance.
    `logit_normal`: sigmoid of a standard normal (Esser et al. 2024, m = 0, s = 1).
    """
    u = (np.arange(size) + rng.random(size)) / size
    if time == "logit_normal":
        u = expit(ndtri(u))
    return u.clip(0.0, np.nextafter(1.0, 0.0))
