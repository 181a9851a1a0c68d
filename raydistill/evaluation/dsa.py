"""DSA (Zhao and Bilen 2021) as IDC's release trains CIFAR-10 with it, and shifts of an image beyond its border.

Of every image, on normalised pixels: brightness, saturation and contrast, then one of shift, scale and rotation, beyond
whose border there is 0, the mean colour. Flips are a recipe's own, and cutout gives way to CutMix, as in the release.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from raydistill.seeding import generator

SHIFT = 0.125  # of a side
SCALE = 1.2
DEGREES = 15.0
BRIGHTNESS, SATURATION, CONTRAST = 1.0, 2.0, 0.5  # width of an offset; largest factor; smallest factor


@dataclass(frozen=True)
class Siamese:
    """`colour` (n, 3): an offset, and factors of saturation and contrast; `where` (n, 2, 3): as `move` takes it."""

    colour: np.ndarray
    where: np.ndarray

    def __getitem__(self, rows: np.ndarray) -> Siamese:
        return Siamese(self.colour[rows], self.where[rows])


def draw_siamese(n: int, size: int, *key: object) -> Siamese:
    """Row i depends on (key, i) alone."""
    u = generator("augment.dsa.colour", *key).random((n, 3), dtype=np.float32)
    colour = np.stack([(u[:, 0] - 0.5) * BRIGHTNESS, u[:, 1] * SATURATION, u[:, 2] + CONTRAST], 1)
    kind = generator("augment.dsa.kind", *key).integers(3, size=n)
    u = generator("augment.dsa.move", *key).random((n, 3), dtype=np.float32)
    scaled, turned = _still(n), _still(n)
    scaled[:, 0, 0], scaled[:, 1, 1] = (1 / SCALE + (SCALE - 1 / SCALE) * u[:, i] for i in (0, 1))
    angle = np.deg2rad((2 * u[:, 2] - 1) * DEGREES)
    turned[:, 0, 0] = turned[:, 1, 1] = np.cos(angle)
    turned[:, 0, 1], turned[:, 1, 0] = -np.sin(angle), np.sin(angle)
    choices = np.stack([draw_shifts(n, size, SHIFT, *key), scaled, turned])
    return Siamese(colour, choices[kind, np.arange(n)])


def draw_shifts(n: int, size: int, share: float, *key: object) -> np.ndarray:
    """Shifts by whole pixels, up to a share of the side, (n, 2, 3) float32. Row i depends on (key, i) alone."""
    most = int(size * share + 0.5)
    where = _still(n)
    where[:, :, 2] = generator("augment.shift", *key).integers(-most, most + 1, size=(n, 2)) * (2 / size)
    return where


def _still(n: int) -> np.ndarray:
    return np.tile(np.eye(2, 3, dtype=np.float32), (n, 1, 1))


def siamese(x: Tensor, drawn: Siamese) -> Tensor:
    """x (n, 3, S, S) normalised, recoloured and moved. As in the release nothing is clipped."""
    offset, saturation, contrast = torch.from_numpy(drawn.colour).to(x.device)[:, :, None, None, None].unbind(1)
    x = x + offset
    grey = x.mean(1, keepdim=True)
    x = (x - grey) * saturation + grey
    level = x.mean((1, 2, 3), keepdim=True)
    return move((x - level) * contrast + level, drawn.where)


def move(x: Tensor, where: np.ndarray) -> Tensor:
    """x (n, 3, S, S) seen at the places of `where` (n, 2, 3), affine maps of coordinates in [-1, 1]; 0 outside."""
    grid = F.affine_grid(torch.from_numpy(where).to(x.device), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)
