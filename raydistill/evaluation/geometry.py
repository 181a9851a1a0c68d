"""Crops, flips and shuffled patches on the device: drawn per sample, then carried out in two matrix products.

All of them act on rows and columns apart, so an augmented image is Y X Z^T with one small matrix a side. A row of such
a matrix holds the two weights of a bilinear interpolation inside the crop: the result is that of cutting the box out
and resizing it, as torchvision's RandomResizedCrop does on tensors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from raydistill.seeding import generator

RATIO = (3 / 4, 4 / 3)
ATTEMPTS = 10  # boxes that do not fit are drawn again so often; then the whole image is taken


@dataclass(frozen=True)
class Boxes:
    """What part of each image is seen: pixels (n,) int64, `flip` (n,) bool. Indexing takes rows."""

    top: np.ndarray
    left: np.ndarray
    height: np.ndarray
    width: np.ndarray
    flip: np.ndarray

    def __getitem__(self, rows: np.ndarray) -> Boxes:
        return Boxes(self.top[rows], self.left[rows], self.height[rows], self.width[rows], self.flip[rows])


def draw_boxes(n: int, size: int, scale: float, flip: bool, *key: object) -> Boxes:
    """One box for each of n square images, as torchvision draws it: area in [scale, 1], aspect log-uniform in RATIO.

    Row i depends on (key, i) alone. `scale` = 1 takes whole images.
    """
    whole = np.full(n, size)
    top, left, height, width = np.zeros(n, np.int64), np.zeros(n, np.int64), whole, whole
    if scale < 1:
        u = generator("augment.box", *key).random((n, ATTEMPTS, 2))
        area = (scale + (1 - scale) * u[..., 0]) * size**2
        aspect = np.exp(np.log(RATIO[0]) + np.log(RATIO[1] / RATIO[0]) * u[..., 1])
        w, h = np.rint(np.sqrt(area * aspect)).astype(np.int64), np.rint(np.sqrt(area / aspect)).astype(np.int64)
        fits = (w > 0) & (w <= size) & (h > 0) & (h <= size)
        first, any_fits = fits.argmax(1), fits.any(1)
        rows = np.arange(n)
        width, height = np.where(any_fits, w[rows, first], size), np.where(any_fits, h[rows, first], size)
        offsets = generator("augment.place", *key).random((n, 2))
        top = (offsets[:, 0] * (size - height + 1)).astype(np.int64)
        left = (offsets[:, 1] * (size - width + 1)).astype(np.int64)
    flipped = generator("augment.flip", *key).random(n) < 0.5 if flip else np.zeros(n, bool)
    return Boxes(top, left, height, width, flipped)


def draw_patches(n: int, size: int, factor: int, *key: object) -> np.ndarray | None:
    """RDED's shuffle: the image is cut into `factor` strips a side and the strips of each side are put in a new order.

    Returns (2, n, size) float32: where each row and each column of an image is after the shuffle; None for factor 1.
    """
    if factor == 1:
        return None
    strip = np.minimum(np.arange(size) // (size // factor), factor - 1)
    lengths = np.bincount(strip)
    order = generator("augment.patches", *key).random((n, 2, factor)).argsort(2).transpose(1, 0, 2)
    starts = lengths[order].cumsum(2) - lengths[order]
    start_of = np.take_along_axis(starts, order.argsort(2), 2)
    return (start_of[..., strip] + np.arange(size) - strip * (size // factor)).astype(np.float32)


def matrices(boxes: Boxes, size: int, patches: np.ndarray | None, device: torch.device) -> tuple[Tensor, Tensor]:
    """The matrices (n, size, size) float32 of rows and of columns that cut, resize, flip and shuffle."""

    def one(start: np.ndarray, length: np.ndarray, moved: np.ndarray | None, flip: np.ndarray | None) -> Tensor:
        at = (np.arange(size) + 0.5) * (length[:, None] / size) - 0.5
        at = start[:, None] + at.clip(0, (length - 1)[:, None])
        if flip is not None:
            at = np.where(flip[:, None], at[:, ::-1], at)
        source = np.arange(size, dtype=np.float32)[None] if moved is None else moved
        seen = torch.from_numpy(at.astype(np.float32)).to(device)
        return seen[:, :, None].sub(torch.from_numpy(source).to(device)[:, None, :]).abs_().neg_().add_(1).clamp_(min=0)

    rows, columns = (None, None) if patches is None else (patches[0], patches[1])
    return one(boxes.top, boxes.height, rows, None), one(boxes.left, boxes.width, columns, boxes.flip)


def resample(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """x (n, 3, S, S) float32 seen through the matrices of `matrices`."""
    n, c, s, _ = x.shape
    across = torch.bmm(x.view(n, c * s, s), columns.transpose(1, 2)).view(n, c, s, s)
    return torch.matmul(rows[:, None], across)
