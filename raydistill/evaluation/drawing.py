"""Images drawn in proportion to their weights, in place of a loss that is multiplied by them."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from raydistill.errors import StageFailed


def by_chance(weights: Tensor) -> tuple[Tensor, np.ndarray]:
    """Weights (n,) as losses have them when images are drawn in proportion to them, and those that they are drawn by.

    The loss keeps the mean weight, so that a step is on average what it is without drawing.
    """
    return weights.mean().expand(len(weights)), weights.cpu().numpy()


def even_chances(labels: Tensor) -> np.ndarray:
    """Weights (n,) by which every class is drawn equally often."""
    _, of, counts = labels.unique(return_inverse=True, return_counts=True)
    return (1 / counts[of].double()).cpu().numpy()


def in_proportion(weights: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rows (n,) int64, ascending, as many as weights (n,): row i about n w_i / sum(w) times, on average just as often.

    Rounded up or down by one random offset, so that classes that lie together get their shares in every epoch. Equal
    weights give every row once. Raises StageFailed if nothing weighs anything.
    """
    if (weights == weights[0]).all() and weights[0] > 0:
        return np.arange(len(weights))
    ends = np.cumsum(weights, dtype=np.float64)
    if not ends[-1] > 0:
        raise StageFailed("evaluate: all weights of a set are 0, so that no image can be drawn; give some a weight")
    points = (rng.random() + np.arange(len(weights))) / len(weights)
    return np.searchsorted(ends / ends[-1], points, side="right")
