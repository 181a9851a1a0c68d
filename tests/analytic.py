"""Data whose denoiser is known in closed form, normals and mixtures of them: for tests whose answer is analytic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import Tensor

from raydistill.diffusion.flow import FlowStep
from raydistill.diffusion.loop import Batch
from raydistill.diffusion.prediction import FlowPrediction, Prediction, log_variance, x0_from_eps
from raydistill.diffusion.schedule import Step, alphas_bar, path
from raydistill.guidance.networks import Networks
from raydistill.seeding import NoiseKey

SHAPE = (4, 4, 4)
LINEAR = {"num_train_timesteps": 1000, "beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}


def steps(count: int = 50, grid: str = "released") -> tuple[Step, ...]:
    """The DiT schedule, respaced."""
    return path(alphas_bar(LINEAR), grid, count)


@dataclass(frozen=True)
class Mixture:
    """The denoiser of data drawn from equally likely normals N(mean, std^2), every entry on its own.

    x_t = a x_0 + b eps; a component explains x_t by N(a mean, v) with v = a^2 std^2 + b^2, and then expects
    eps = b (x_t - a mean) / v. `raw` stands for the channel with which a network chooses its variance.
    """

    means: tuple[float, ...]
    std: float
    raw: float | None = None

    def __call__(self, x_t: Tensor, step: Step, class_index: Tensor) -> Prediction:
        x, a, b = x_t.double(), step.alpha_bar**0.5, (1 - step.alpha_bar) ** 0.5
        v = a**2 * self.std**2 + b**2
        away = torch.stack([x - a * m for m in self.means])
        share = torch.softmax(-(away**2) / (2 * v), 0)
        eps = (share * away).sum(0).mul(b / v).to(x_t.dtype)
        raw = None if self.raw is None else torch.full_like(x_t, self.raw)
        return Prediction(step, x_t, eps, x0_from_eps(x_t, eps, step), log_variance(step, raw, eps))

    with_grad = __call__

    def velocity(self, x_t: Tensor, t: float, class_index: Tensor) -> Tensor:
        """E[x_1 - eps | x_t] on the path x_t = t x_1 + (1 - t) eps.

        A component explains x_t by N(t mean, v) with v = t^2 std^2 + (1 - t)^2, and then expects
        x_1 = mean + t std^2 (x_t - t mean) / v and eps = (1 - t) (x_t - t mean) / v.
        """
        x, v = x_t.double(), t**2 * self.std**2 + (1 - t) ** 2
        away = torch.stack([x - t * m for m in self.means])
        share = torch.softmax(-(away**2) / (2 * v), 0)
        means = torch.tensor(self.means, dtype=torch.float64).view(-1, *[1] * x.ndim)
        return (share * (means + (t * self.std**2 - (1 - t)) / v * away)).sum(0).to(x_t.dtype)

    velocity_with_grad = velocity


def batch(size: int, prototype: Tensor | float = 0.0, shape: tuple[int, ...] = SHAPE, seed: int = 0) -> Batch:
    """`size` slots of one class, pulled to the same prototype, or to one each; real latents lie around it."""
    anchors = torch.as_tensor(prototype).to(torch.float32).expand(size, *shape).clone()
    keys = [NoiseKey(seed, "c", i) for i in range(size)]
    return Batch(
        torch.zeros(size, dtype=torch.long),
        anchors,
        keys,
        {"neighbours": around(anchors), "radius": torch.full((size,), 1e3)},
    )


def around(anchors: Tensor, count: int = 16) -> Tensor:
    """Points around each anchor, the nearest first: (B, count, *shape)."""
    drawn = noise(99, count, tuple(anchors.shape[1:]))
    drawn = drawn * torch.linspace(0.5, 1, count).view(-1, *[1] * (anchors.ndim - 1))
    far = drawn.flatten(1).norm(dim=1)
    return anchors.unsqueeze(1) + drawn[far.argsort()].to(anchors.dtype)


def prediction(step: Step, x_t: Tensor, eps: Tensor, raw: Tensor | None = None) -> Prediction:
    """What a network that says `eps` (and `raw` of the variance) would be understood as."""
    return Prediction(step, x_t, eps, x0_from_eps(x_t, eps, step), log_variance(step, raw, eps))


def flow_prediction(step: FlowStep, x_t: Tensor, v: Tensor) -> FlowPrediction:
    return FlowPrediction(step, step.t, x_t, v)


class Painter:
    """A VAE in closed form: pixels (B, 3, h, w) are (1 + z) / 2 of the first three channels."""

    def decode_with_grad(self, z: Tensor, checkpointed: bool = False) -> Tensor:
        return (1 + z[:, :3]) / 2


class Linear:
    """A classifier in closed form: logits +-k (mean of pixels - 1/2) of classes "c" and "d", features its colours."""

    spec = SimpleNamespace(class_ids=["c", "d"])

    def __init__(self, k: float = 1.0) -> None:
        self.k = k

    def logits_with_grad(self, x: Tensor, checkpointed: bool = False) -> Tensor:
        away = self.k * (x.mean(dim=(1, 2, 3)) - 0.5)
        return torch.stack([away, -away], 1)

    def features_with_grad(self, x: Tensor, checkpointed: bool = False) -> Tensor:
        return x.mean(dim=(2, 3))


def networks(roles: Sequence[str], latent_scale: float = 1.0) -> Networks:
    """What a guidance is bound to, in closed form and in the dtype of what it is asked about."""
    judges = {role: Linear() for role in roles}
    return Networks(latent_scale, ["c"], Painter(), judges, Mixture((-1.0, 1.0), 0.3))  # type: ignore[arg-type]


def noise(seed: int, size: int = 3, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.randn((size, *shape), generator=torch.Generator().manual_seed(seed))
