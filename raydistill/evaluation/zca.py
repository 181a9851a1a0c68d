"""ZCA whitening as MTT (Cazenavette et al. 2022) evaluates with it: of images in [0, 1], by the training images.

x -> (x - m) W over all D = 3 S S values of an image, where m and C are mean and covariance (over N - 1) of the training
images and W = C's eigenvectors times 1 / sqrt(eigenvalues + eps) times their transpose. Whitened images have no mean,
and as covariance C (C + eps)^-1: the identity where variances are large beside eps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

EPS = 0.1
LARGEST = 64  # pixels a side: D x D numbers of 8 bytes are 1.2 GB there
CHUNK = 2048


@dataclass(frozen=True)
class Whitening:
    """mean (D,) and matrix (D, D) float32; D values of an image channel by channel."""

    mean: Tensor
    matrix: Tensor

    @classmethod
    def of(cls, pixels: Tensor, eps: float = EPS) -> Whitening:
        """That of training images (N, 3, S, S) uint8, N at least 2; computed in float64."""
        flat = pixels.reshape(len(pixels), -1)
        mean = torch.stack([part.sum(0) for part in _unit(flat)]).sum(0) / len(flat)
        covariance = torch.zeros(flat.shape[1], flat.shape[1], dtype=torch.float64)
        for part in _unit(flat):
            covariance += (part - mean).T @ (part - mean)
        variances, vectors = torch.linalg.eigh(covariance / (len(flat) - 1))
        matrix = (vectors * (variances.clamp(min=0) + eps).rsqrt()) @ vectors.T
        return cls(mean.float(), matrix.float())

    def __call__(self, pixels: Tensor) -> Tensor:
        """Images (n, 3, S, S) uint8, whitened: float32 of the same shape, times 255 as pixels are."""
        flat = pixels.reshape(len(pixels), -1)
        out = torch.empty(flat.shape, dtype=torch.float32)
        for start in range(0, len(flat), CHUNK):
            part = flat[start : start + CHUNK].float() / 255
            out[start : start + CHUNK] = 255 * ((part - self.mean) @ self.matrix)
        return out.reshape(pixels.shape)


def from_levels(pixels: Tensor, low: float, high: float) -> Tensor:
    """Values from `low` to `high` of a set that is whitened already, kept as pixels (n, 3, S, S) uint8: times 255."""
    return pixels.float() * (high - low) + 255 * low


def _unit(flat: Tensor) -> Iterator[Tensor]:
    """Chunks (c, D) float64 in [0, 1]."""
    return (part.double() / 255 for part in flat.split(CHUNK))
