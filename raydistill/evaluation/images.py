"""The images that students are trained and tested on: decoded once, kept on the device or in a file."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ImageSet:
    """pixels (N, 3, S, S) uint8, or float32 where they are whitened; labels (N,) int64; weights (N,) float32 (1 where a
    method gives none).

    `in_file`: the pixels are mapped from a file, since they are too many for memory, and stay there.
    """

    pixels: Tensor
    labels: Tensor
    weights: Tensor
    in_file: bool = False

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Tensor) -> ImageSet:
        """Some of the images, in memory: rows (N,) bool, or indices."""
        return ImageSet(self.pixels[rows], self.labels[rows], self.weights[rows])

    def shown(self, rows: Tensor | slice) -> Tensor:
        """The pixels of some of the images where their labels are: rows are indices (n,) int64, or a slice."""
        rows = rows if isinstance(rows, slice) else rows.to(self.pixels.device)
        return self.pixels[rows].to(self.labels.device)

    def to(self, device: torch.device) -> ImageSet:
        """Labels and weights there; pixels too, unless they are in a file."""
        pixels = self.pixels if self.in_file else self.pixels.to(device)
        return ImageSet(pixels, self.labels.to(device), self.weights.to(device), self.in_file)
