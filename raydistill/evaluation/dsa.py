"""The parts of DSA (Zhao and Bilen 2021): colours, shifts, scales and turns of normalised images, and their draws.

Beyond the border there is 0, the mean colour. dsa_strategy.py says which parts an image goes through.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from raydistill.seeding import generator

SHIFT = 0.125  # of a side
SCALE = 1.2
DEGREES = 15.0
BRIGHTNESS, SATURATION, CONTRAST = 1.0, 2.0, 0.5  # width of an offset; largest factor; smallest factor


def draw_colours(n: int, *key: object) -> np.ndarray:
    """(n, 3): an offset, and factors of saturation and contrast."""
    u = generator("augment.dsa.colour", *key).random((n, 3), dtype=np.float32)
    return np.stack([(u[:, 0] - 0.5) * BRIGHTNESS, u[:, 1] * SATURATION, u[:, 2] + CONTRAST], 1)


def draw_scales(n: int, *key: object) -> np.ndarray:
    """Each side by a factor of its own, (n, 2, 3) float32."""
    u, where = _moves(n, *key), _still(n)
    where[:, 0, 0], where[:, 1, 1] = (1 / SCALE + (SCALE - 1 / SCALE) * u[:, i] for i in (0, 1))
    return where


def draw_turns(n: int, *key: object) -> np.ndarray:
    """(n, 2, 3) float32."""
    where = _still(n)
    angle = np.deg2rad((2 * _moves(n, *key)[:, 2] - 1) * DEGREES)
    where[:, 0, 0] = where[:, 1, 1] = np.cos(angle)
    where[:, 0, 1], where[:, 1, 0] = -np.sin(angle), np.sin(angle)
    return where


def _moves(n: int, *key: object) -> np.ndarray:
    return generator("augment.dsa.move", *key).random((n, 3), dtype=np.float32)


def draw_shifts(n: int, size: int, share: float, *key: object) -> np.ndarray:
    """Shifts by whole pixels, up to a share of the side, (n, 2, 3) float32. Row i depends on (key, i) alone."""
    most = int(size * share + 0.5)
    where = _still(n)
    where[:, :, 2] = generator("augment.shift", *key).integers(-most, most + 1, size=(n, 2)) * (2 / size)
    return where


def _still(n: int) -> np.ndarray:
    return np.tile(np.eye(2, 3, dtype=np.float32), (n, 1, 1))


def recoloured(x: Tensor, colour: np.ndarray) -> Tensor:
    """x (n, 3, S, S) by `colour` (n, 3). As in the releases nothing is clipped."""
    offset, saturation, contrast = torch.from_numpy(colour).to(x.device)[:, :, None, None, None].unbind(1)
    x = x + offset
    grey = x.mean(1, keepdim=True)
    x = (x - grey) * saturation + grey
    level = x.mean((1, 2, 3), keepdim=True)
    return (x - level) * contrast + level


def move(x: Tensor, where: np.ndarray) -> Tensor:
    """x (n, 3, S, S) seen at the places of `where` (n, 2, 3), affine maps of coordinates in [-1, 1]; 0 outside."""
    grid = F.affine_grid(torch.from_numpy(where).to(x.device), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)
