"""Scores of DD-Ranking: what of an accuracy is due to the images, not to soft labels or augmentation.

Formulas over accuracies in [0, 1] that the caller has measured, so not a `Metric`.
"""

from __future__ import annotations

import math


def lrs(real_hard: float, synthetic_hard: float, synthetic: float, random: float, w: float = 0.5) -> dict[str, float]:
    """Label-robust score, in (0, 1): alpha = w IOR - (1 - w) HLR, squashed. Higher is better.

    hlr = real_hard - synthetic_hard, what hard labels do not recover; ior = synthetic - random, the gain over as many
    random real images under the method's own labels. Raises ValueError for numbers that are no shares.
    """
    _shares(real_hard=real_hard, synthetic_hard=synthetic_hard, synthetic=synthetic, random=random, w=w)
    hlr, ior = real_hard - synthetic_hard, synthetic - random
    return {"hlr": hlr, "ior": ior, "lrs": _squashed(w * ior - (1 - w) * hlr)}


def ars(
    synthetic_augmented: float, random_augmented: float, synthetic: float, random: float, gamma: float = 0.5
) -> dict[str, float]:
    """Augmentation-robust score, in (0, 1): beta = gamma (gain with augmentation) + (1 - gamma) (gain without).

    A gain is the accuracy of the synthetic set minus that of as many random real images. Raises ValueError as `lrs`.
    """
    _shares(
        synthetic_augmented=synthetic_augmented,
        random_augmented=random_augmented,
        synthetic=synthetic,
        random=random,
        gamma=gamma,
    )
    beta = gamma * (synthetic_augmented - random_augmented) + (1 - gamma) * (synthetic - random)
    return {"ars": _squashed(beta)}


def _squashed(x: float) -> float:
    """[-1, 1] -> [0, 1], increasing."""
    return (math.exp(x) - math.exp(-1)) / (math.e - math.exp(-1))


def _shares(**shares: float) -> None:
    for name, value in shares.items():
        if not 0 <= value <= 1:
            raise ValueError(f"ddranking: {name}={value} must lie between 0 and 1")
