"""What is trained: a network, its data in memory, and the loss of one step as a pure function of (seed, step)."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import nn

from raydistill.config import PretrainConfig
from raydistill.models.device import mixed
from raydistill.pretraining.data import TrainingLatents
from raydistill.pretraining.group import ALONE, Group
from raydistill.pretraining.losses import vae_loss
from raydistill.pretraining.networks import build_vae
from raydistill.pretraining.objectives import levels, objective
from raydistill.pretraining.origin import Origin
from raydistill.seeding import generator


class Task(Protocol):
    net: nn.Module

    def loss(self, step: int, group: Group = ALONE) -> torch.Tensor:
        """Scalar training loss of step 0, 1, ... on this worker's share of the batch.

        Batch and noise depend on (seed, step) alone, so that the mean over any number of workers is the same.
        """
        ...

    @property
    def facts(self) -> dict[str, float]:
        """What was measured on the data and has to be known with the weights."""
        ...


class VaeTask:
    """Trains an AutoencoderKL on pixels, uint8 (N, H, W, 3)."""

    def __init__(
        self, config: PretrainConfig, seed: int, pixels: torch.Tensor, device: torch.device | str = "cpu"
    ) -> None:
        self.config, self.seed, self.device = config, seed, torch.device(device)
        self.pixels = pixels.to(self.device)
        self.net = build_vae(config, pixels.shape[1], seed).to(self.device)
        self.facts: dict[str, float] = {}

    def loss(self, step: int, group: Group = ALONE) -> torch.Tensor:
        rng, mine = generator(self.seed, "pretrain", "vae", step), group.share(self.config.batch)
        rows = torch.from_numpy(rng.integers(len(self.pixels), size=self.config.batch)[mine]).to(self.device)
        x = self.pixels[rows].permute(0, 3, 1, 2).to(torch.float32).div(127.5).sub(1)
        posterior = self.net.encode(x).latent_dist
        shape = posterior.mean.shape[1:]
        noise = normal(rng, (self.config.batch, *shape), mine, self.device)
        decoded = self.net.decode(posterior.mean + posterior.std * noise).sample
        return vae_loss(x, decoded, posterior.mean, posterior.logvar, self.config.kl_weight)


class GeneratorTask:
    """Trains a class-conditional DiT on latents. `labels` (classes,) int64: the network's label of each class of them.

    The network stays in evaluation mode: in training mode diffusers' label embedding drops a tenth of the labels by
    itself, from the global generator, on top of `label_dropout`; nothing else in it depends on the mode.
    """

    def __init__(
        self,
        config: PretrainConfig,
        seed: int,
        origin: Origin,
        net: nn.Module,
        latents: TrainingLatents,
        labels: torch.Tensor,
        device: torch.device | str = "cpu",
    ) -> None:
        self.config, self.seed, self.device, self.origin = config, seed, torch.device(device), origin
        self.latents, self.labels = latents, labels
        self.scale = origin.latent_scale or 1.0 / latents.deviation()
        self.net = net.to(self.device).eval()
        if config.trainable == "vectors":
            for name, p in self.net.named_parameters():
                p.requires_grad_(origin.trains_with_vectors(name, p))
        self.objective = objective(origin.predicts, origin.learned_variance, self.device)

    @property
    def facts(self) -> dict[str, float]:
        return {"latent_scale": self.scale}

    def loss(self, step: int, group: Group = ALONE) -> torch.Tensor:
        rng, size = generator(self.seed, "pretrain", "generator", step), self.config.batch
        rows = rng.integers(len(self.latents), size=size)
        level = levels(rng, size, self.config.time)
        dropped = rng.random(size) < self.config.label_dropout
        mine = group.share(size)
        noise = normal(rng, (size, *self.latents.values.shape[1:]), mine, self.device)
        return self.of(self.net, self.latents, rows[mine], level[mine], dropped[mine], noise).mean()

    def of(
        self,
        net: nn.Module,
        latents: TrainingLatents,
        rows: np.ndarray,
        level: np.ndarray,
        dropped: np.ndarray,
        noise: torch.Tensor,
    ) -> torch.Tensor:
        """Losses (B,) of a network on some rows of latents, noised at the levels (B,); `dropped` (B,) hides classes."""
        half, classes = latents.take(rows)
        z = half.to(self.device).float() * self.scale
        at = torch.from_numpy(level).to(self.device)
        labels = torch.where(torch.from_numpy(dropped), self.origin.null, self.labels[classes]).to(self.device)
        x, timestep = self.objective.shown(z, noise, at)
        with mixed(self.config.dtype, self.device):
            out = net(x, timestep=timestep, class_labels=labels).sample
        return self.objective.loss(out.float(), z, noise, at)


def normal(
    rng: np.random.Generator, shape: tuple[int, ...], rows: slice, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """Standard normal float32, of which `rows` are kept: every worker draws what all of them draw."""
    return torch.from_numpy(rng.standard_normal(shape, dtype=np.float32)[rows]).to(device)
