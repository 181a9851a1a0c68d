"""Augmentation on the device, batched: random resized crops and flips in one resampling, and CutMix."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from raydistill.config import ProtocolConfig


def normalise(pixels: Tensor) -> Tensor:
    """uint8 (B, 3, S, S) -> float32, centred and scaled."""
    return pixels.to(torch.float32).div(255).sub(0.5).div(0.25)


def crop_and_flip(x: Tensor, protocol: ProtocolConfig, rng: np.random.Generator) -> Tensor:
    """Random resized crop (area in [crop_scale, 1], aspect in [3/4, 4/3]) and flip, one draw a sample. (B, 3, S, S)."""
    n = len(x)
    area = rng.uniform(protocol.crop_scale, 1, n)
    aspect = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3), n)) if protocol.crop_scale < 1 else np.ones(n)
    w, h = np.minimum(np.sqrt(area * aspect), 1), np.minimum(np.sqrt(area / aspect), 1)
    left, top = rng.uniform(-1, 1, n) * (1 - w), rng.uniform(-1, 1, n) * (1 - h)
    sign = np.where(rng.random(n) < 0.5, -1.0, 1.0) if protocol.flip else np.ones(n)
    if protocol.crop_scale == 1:
        return (
            x
            if not protocol.flip
            else torch.where(torch.from_numpy(sign < 0).to(x.device)[:, None, None, None], x.flip(3), x)
        )
    theta = np.zeros((n, 2, 3), np.float32)
    theta[:, 0, 0], theta[:, 0, 2], theta[:, 1, 1], theta[:, 1, 2] = w * sign, left, h, top
    grid = F.affine_grid(torch.from_numpy(theta).to(x.device), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)


def cutmix(x: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor, float]:
    """CutMix (Yun et al. 2019) with one box for the batch, beta = 1.

    Returns the mixed images, the partner of each (B,) int64, and the share of the own image, from the actual box.
    """
    size = x.shape[-1]
    cut = np.sqrt(1 - rng.random()) * size
    cy, cx = rng.integers(size, size=2)
    y0, y1 = int(np.clip(cy - cut / 2, 0, size)), int(np.clip(cy + cut / 2, 0, size))
    x0, x1 = int(np.clip(cx - cut / 2, 0, size)), int(np.clip(cx + cut / 2, 0, size))
    partner = torch.from_numpy(rng.permutation(len(x))).to(x.device)
    mixed = x.clone()
    mixed[:, :, y0:y1, x0:x1] = x[partner, :, y0:y1, x0:x1]
    return mixed, partner, 1 - (y1 - y0) * (x1 - x0) / size**2
