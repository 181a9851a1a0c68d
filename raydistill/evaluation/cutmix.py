"""CutMix (Yun et al. 2019), one box a batch, as the released training scripts draw it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Mix:
    """`partner` (n,) int64: whose box each image of the batch received; `share`: the part of its area that is left."""

    partner: Tensor
    share: float

    def of(self, values: Tensor) -> Tensor:
        """Rows of values (n, ...) mixed as the images are."""
        return values if self.share == 1 else self.share * values + (1 - self.share) * values[self.partner]


def cutmix(x: Tensor, probability: float, beta: float, rng: np.random.Generator) -> Mix:
    """Mixes x (n, 3, S, S) in place, with the given probability. The share follows the box as the border cuts it."""
    n, size = len(x), x.shape[-1]
    if rng.random() >= probability:
        return Mix(torch.arange(n, device=x.device), 1.0)
    half = int(np.sqrt(1 - rng.beta(beta, beta)) * size) // 2
    (y0, y1), (x0, x1) = ((max(c - half, 0), min(c + half, size)) for c in rng.integers(size, size=2).tolist())
    partner = torch.from_numpy(rng.permutation(n)).to(x.device)
    x[:, :, y0:y1, x0:x1] = x[partner, :, y0:y1, x0:x1]
    return Mix(partner, 1 - (y1 - y0) * (x1 - x0) / size**2)
