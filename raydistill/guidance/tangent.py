"""The plane through the K points nearest a sample, by the K x K Gram matrix: O(K^2 D) a sample, never D x D.

Batched over samples; vectors are flattened latents, (B, D). With the centred points A (K, D) and the eigenvectors V,
lambda of A A^T, the principal directions are the columns of U = A^T V lambda^(-1/2): they are never formed, since only
U U^T v is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

RANK = 1e-10  # eigenvalues below this share of the largest are no direction
SAME = 1e-12  # nor are those below this share of the points' own squared length: rounding of identical points


@dataclass(frozen=True)
class Plane:
    """An affine plane per sample: `mean` (B, D), centred points A (B, K, D), M = V lambda^-1 V^T of the d leading
    directions (B, K, K), so that the projection of v is A^T M A v; `explained` (B,) is their share of the variance.
    """

    mean: Tensor
    points: Tensor
    inverse: Tensor
    explained: Tensor

    def tangent(self, v: Tensor) -> Tensor:
        """The part of v (B, D) along the plane."""
        along = self.inverse @ (self.points @ v.unsqueeze(2))
        return (self.points.transpose(1, 2) @ along).squeeze(2)

    def normal(self, v: Tensor) -> Tensor:
        """The part of v (B, D) normal to the plane."""
        return v - self.tangent(v)


def nearest(
    points: Tensor, x: Tensor, k: int, allowed: Tensor | None = None, lengths: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The k rows of points (B, N, D) nearest x (B, D), and their distances (B, k), ascending.

    `allowed` (B, N) leaves points out; the first k of each sample must be allowed. With `lengths` (B, N), the squared
    lengths of the points, distances come from one matrix product and a rounding error that only tells near ties apart.
    """
    if lengths is None:
        distance = torch.linalg.vector_norm(points - x.unsqueeze(1), dim=2)
    else:
        inner = (points @ x.unsqueeze(2)).squeeze(2)
        distance = (lengths - 2 * inner + x.square().sum(1, keepdim=True)).clamp(min=0).sqrt()
    if allowed is not None:
        distance = distance.masked_fill(~allowed, torch.inf)
    distance, index = distance.topk(k, dim=1, largest=False, sorted=True)
    return torch.gather(points, 1, index.unsqueeze(2).expand(-1, -1, points.shape[2])), distance


def plane(points: Tensor, d: int) -> Plane:
    """The plane of the d leading principal directions of points (B, K, D), d < K.

    Points of lower rank give fewer directions; identical points give none, and a plane that is a point.
    """
    mean = points.mean(dim=1)
    a = points - mean.unsqueeze(1)
    gram = (a @ a.transpose(1, 2)).double()
    values, vectors = torch.linalg.eigh(gram)  # ascending
    values = values.clamp(min=0)
    top, v = values[:, -d:], vectors[:, :, -d:]
    length = points.double().square().sum(2).amax(1, keepdim=True)
    kept = top > (RANK * values[:, -1:]).maximum(SAME * length).clamp(min=1e-300)
    inverse = (v * torch.where(kept, 1 / top.clamp(min=1e-300), 0.0).unsqueeze(1)) @ v.transpose(1, 2)
    share = top.sum(1) / values.sum(1).clamp(min=1e-300)
    return Plane(mean, a, inverse.to(points.dtype), share.to(points.dtype))
