"""The images that students are trained and tested on: decoded once, kept on the device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ImageSet:
    """pixels (N, 3, S, S) uint8, or float32 where they are whitened; labels (N,) int64; weights (N,) float32 (1 where a
    method gives none)."""

    pixels: Tensor
    labels: Tensor
    weights: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Tensor) -> ImageSet:
        """Some of the images: rows (N,) bool, or indices."""
        return ImageSet(self.pixels[rows], self.labels[rows], self.weights[rows])

    def to(self, device: torch.device) -> ImageSet:
        return ImageSet(self.pixels.to(device), self.labels.to(device), self.weights.to(device))
