"""Colour on the device: brightness, contrast and saturation jitter, PCA lighting and normalisation in one pass.

Each of them is an affine map of a pixel's three channels (contrast needs the mean of the image as well), so their
composition is one 3 x 3 matrix and one offset an image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from raydistill.seeding import generator

STATISTICS = {  # mean and standard deviation of the channels
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),  # of whitened images
}
GREY = (0.299, 0.587, 0.114)
# Krizhevsky et al. 2012: principal components of ImageNet's colours, in columns, and their standard deviations.
EIGENVALUES = (0.2175, 0.0188, 0.0045)
EIGENVECTORS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))
BRIGHTNESS, CONTRAST, SATURATION = range(3)


@dataclass(frozen=True)
class Colours:
    """`factor` (n, 3): of brightness, contrast and saturation; `order` (n, 3): which comes first; `light` (n, 3)."""

    factor: np.ndarray
    order: np.ndarray
    light: np.ndarray

    def __getitem__(self, rows: np.ndarray) -> Colours:
        return Colours(self.factor[rows], self.order[rows], self.light[rows])


def draw_colours(n: int, jitter: float, lighting: float, *key: object) -> Colours | None:
    """Factors uniform in 1 +- jitter, orders, and offsets of PCA lighting. Row i depends on (key, i) alone."""
    if not jitter and not lighting:
        return None
    u = generator("augment.jitter", *key).random((n, 6), dtype=np.float32)
    normal = generator("augment.light", *key).standard_normal((n, 3), dtype=np.float32)
    light = (normal * lighting * np.array(EIGENVALUES, np.float32)) @ np.array(EIGENVECTORS, np.float32).T
    return Colours(1 + jitter * (2 * u[:, :3] - 1), u[:, 3:].argsort(1), light)


def recolour(x: Tensor, colours: Colours | None, statistics: str = "imagenet") -> Tensor:
    """x (n, 3, S, S) float32 of 0..255, jittered and normalised. As in IDC nothing is clipped between the steps."""
    n, (mean, std) = len(x), (x.new_tensor(values) for values in STATISTICS[statistics])
    if colours is None:
        return _shift(x, (std * 255).reciprocal(), -mean / std)
    flat = x.view(n, 3, -1)
    matrix, offset = affine(flat.mean(2) / 255, colours)
    offset = (offset - mean) / std
    return torch.baddbmm(offset[:, :, None], matrix / (255 * std[:, None]), flat).view_as(x)


def affine(mean: Tensor, colours: Colours) -> tuple[Tensor, Tensor]:
    """Jitter and lighting of images whose channels have the means (n, 3): a matrix (n, 3, 3) and an offset (n, 3)."""
    factor, order, light = (torch.from_numpy(a).to(mean.device) for a in (colours.factor, colours.order, colours.light))
    grey = mean.new_tensor(GREY)
    matrix = torch.eye(3, device=mean.device).expand(len(mean), 3, 3)
    offset = torch.zeros_like(mean)
    for step in order.unbind(1):
        f = factor.gather(1, step[:, None])
        level = ((matrix @ mean[:, :, None]).squeeze(2) + offset) @ grey  # mean grey of the image so far
        to_level = ((step == CONTRAST) * level)[:, None] * (1 - f)
        to_grey = (step == SATURATION)[:, None] * (1 - f)
        offset = f * offset + to_grey * (offset @ grey)[:, None] + to_level
        matrix = f[:, :, None] * matrix + to_grey[:, :, None] * (grey @ matrix)[:, None, :]
    return matrix, offset + light


def normalise(pixels: Tensor, statistics: str = "imagenet") -> Tensor:
    """uint8 (B, 3, S, S) -> float32, each channel with a data set's mean and standard deviation taken out."""
    return recolour(pixels.to(torch.float32), None, statistics)


def unit_range(x: Tensor, statistics: str = "imagenet") -> Tensor:
    """The opposite of normalising: float32 of 0..1, what a teacher takes."""
    mean, std = STATISTICS[statistics]
    return _shift(x, x.new_tensor(std), x.new_tensor(mean))


def _shift(x: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    return torch.addcmul(offset[:, None, None], x, scale[:, None, None])
