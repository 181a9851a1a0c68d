"""What is trained: a network, its data in memory, and the loss of one step as a pure function of (seed, step)."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import nn

from raydistill.config import PretrainConfig
from raydistill.pretraining.losses import TRAIN_STEPS, NoisePath, hybrid_loss, vae_loss
from raydistill.pretraining.networks import build_generator, build_vae
from raydistill.seeding import generator


class Task(Protocol):
    net: nn.Module

    def loss(self, step: int) -> torch.Tensor:
        """Scalar training loss of step 0, 1, ...; batch and noise depend on (seed, step) alone."""
        ...


class VaeTask:
    """Trains an AutoencoderKL on pixels, uint8 (N, H, W, 3)."""

    def __init__(
        self, config: PretrainConfig, seed: int, pixels: torch.Tensor, device: torch.device | str = "cpu"
    ) -> None:
        self.config, self.seed, self.device = config, seed, torch.device(device)
        self.pixels = pixels.to(self.device)
        self.net = build_vae(config, pixels.shape[1], seed).to(self.device)

    def loss(self, step: int) -> torch.Tensor:
        rng = generator(self.seed, "pretrain", "vae", step)
        rows = torch.from_numpy(rng.integers(len(self.pixels), size=self.config.batch)).to(self.device)
        x = self.pixels[rows].permute(0, 3, 1, 2).to(torch.float32).div(127.5).sub(1)
        posterior = self.net.encode(x).latent_dist
        noise = _normal(rng, posterior.mean.shape, self.device)
        decoded = self.net.decode(posterior.mean + posterior.std * noise).sample
        return vae_loss(x, decoded, posterior.mean, posterior.logvar, self.config.kl_weight)


class GeneratorTask:
    """Trains a class-conditional DiT on VAE-scaled latents, float32 (N, C, h, w), with labels int64 (N,).

    The network stays in evaluation mode: in training mode diffusers' label embedding drops a tenth of the labels by
    itself, from the global generator, on top of `label_dropout`; nothing else in it depends on the mode.
    """

    def __init__(
        self,
        config: PretrainConfig,
        seed: int,
        latents: torch.Tensor,
        labels: torch.Tensor,
        classes: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.config, self.seed, self.device, self.null = config, seed, torch.device(device), classes
        self.latents, self.labels = latents.to(self.device), labels.to(self.device)
        _, c, h, w = latents.shape
        self.net = build_generator(config, (c, h, w), classes, seed).to(self.device).eval()
        self.path = NoisePath.linear(self.device)

    def loss(self, step: int) -> torch.Tensor:
        rng = generator(self.seed, "pretrain", "generator", step)
        size = self.config.batch
        rows = torch.from_numpy(rng.integers(len(self.latents), size=size)).to(self.device)
        t = torch.from_numpy(spread_times(rng, size)).to(self.device)
        dropped = torch.from_numpy(rng.random(size) < self.config.label_dropout).to(self.device)
        noise = _normal(rng, (size, *self.latents.shape[1:]), self.device)
        labels = torch.where(dropped, self.null, self.labels[rows])
        x_t = self.path.noised(self.latents[rows], noise, t)
        out = self.net(x_t, timestep=t, class_labels=labels).sample
        return hybrid_loss(self.path, out, noise, t).mean()


def spread_times(rng: np.random.Generator, size: int) -> np.ndarray:
    """Training times (size,) int64, each uniform over 0 .. T-1 but one from each of `size` equal parts of the path.

    Stratifying leaves the expected loss as it is and takes out most of what the draw of times adds to its variance.
    """
    return ((np.arange(size) + rng.random(size)) / size * TRAIN_STEPS).astype(np.int64).clip(0, TRAIN_STEPS - 1)


def _normal(rng: np.random.Generator, shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
    return torch.from_numpy(rng.standard_normal(tuple(shape), dtype=np.float32)).to(device)
