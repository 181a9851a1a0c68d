"""What an image weighs in the loss, of the mass that it stands for: the share of the class nearest its prototype."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Weighting:
    """`of`: masses (K,) float64 of the slots of a class -> what they weigh (K,), up to a factor."""

    of: Callable[[np.ndarray], np.ndarray]
    needs_masses: bool = True


# Under the names of weights.mode and weights.norm.
MODES: dict[str, Weighting] = {
    "uniform": Weighting(np.ones_like, needs_masses=False),
    "density": Weighting(lambda masses: masses),
}
NORMS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "mean": lambda weights: weights / weights.mean(),
    "sum": lambda weights: weights / weights.sum(),
}


def weigh(masses: np.ndarray, mode: str, norm: str) -> np.ndarray:
    """Weights (K,) float64 of the slots of one class, of their masses (K,)."""
    return NORMS[norm](MODES[mode].of(np.asarray(masses, np.float64)))


def shared(sizes: np.ndarray, prototypes: np.ndarray) -> np.ndarray:
    """Masses (K,) of slots whose prototypes are rows of sizes (P,): slots that share one share its members."""
    return sizes[prototypes] / np.bincount(prototypes, minlength=len(sizes))[prototypes]


def effective_sample_size(weights: np.ndarray) -> float:
    """(sum w)^2 / sum w^2: how many images of equal weight vary as little as these; (K,) -> in [1, K]."""
    return float(np.square(weights.sum()) / np.square(weights).sum())
