"""What an image weighs in the loss, of the mass that it stands for: the share of the class nearest its prototype."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Weighting:
    """`of`: masses (K,) float64 of the slots of a class, weights.gamma -> what they weigh (K,), up to a factor."""

    of: Callable[[np.ndarray, float], np.ndarray]
    needs_masses: bool = True
    needs_gamma: bool = False


# Under the names of weights.mode and weights.norm. Roots are of shares of the largest, so that equal masses are equal
# weights to the bit.
MODES: dict[str, Weighting] = {
    "uniform": Weighting(lambda masses, _: np.ones_like(masses), needs_masses=False),
    "density": Weighting(lambda masses, _: masses),
    "sqrt": Weighting(lambda masses, _: np.sqrt(masses / masses.max())),
    "power": Weighting(lambda masses, gamma: (masses / masses.max()) ** gamma, needs_gamma=True),
}
NORMS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "mean": lambda weights: weights / weights.mean(),
    "sum": lambda weights: weights / weights.sum(),
    "inv_sqrt_k": lambda weights: weights / weights.mean() / np.sqrt(len(weights)),
}


def weigh(masses: np.ndarray, mode: str, norm: str, gamma: float | None = None) -> np.ndarray:
    """Weights (K,) float64 of the slots of one class, of their masses (K,).

    Raises ValueError for masses that are not finite and above 0.
    """
    masses = np.asarray(masses, np.float64)
    wrong = np.flatnonzero(~(np.isfinite(masses) & (masses > 0)))
    if len(wrong):
        raise ValueError(f"the mass of slot {wrong[0]} is {masses[wrong[0]]:g}, which is no weight")
    return NORMS[norm](MODES[mode].of(masses, 0.0 if gamma is None else gamma))


def shared(sizes: np.ndarray, prototypes: np.ndarray) -> np.ndarray:
    """Masses (K,) of slots whose prototypes are rows of sizes (P,): slots that share one share its members."""
    return sizes[prototypes] / np.bincount(prototypes, minlength=len(sizes))[prototypes]


def in_norm(weights: np.ndarray, labels: np.ndarray, norm: str) -> np.ndarray:
    """Weights (N,) float64 that somebody gave, those of each class of labels (N,) brought to a norm of NORMS.

    Equal ones of a class are the same to the bit whatever they were, and those that have the norm already keep their
    bits. Every class must have a weight above 0.
    """
    weights, scaled = np.asarray(weights, np.float64), np.empty(len(weights))
    for index in np.unique(labels):
        rows = labels == index
        theirs = weights[rows]
        normed = NORMS[norm](theirs / theirs.max())
        has_it = np.ptp(theirs) > 0 and np.allclose(theirs, normed, rtol=1e-6, atol=0)
        scaled[rows] = theirs if has_it else normed
    return scaled


def effective_sample_size(weights: np.ndarray) -> float:
    """(sum w)^2 / sum w^2: how many images of equal weight vary as little as these; (K,) -> in [1, K]."""
    return float(np.square(weights.sum()) / np.square(weights).sum())


def sample_size_a_class(weights: np.ndarray, labels: np.ndarray) -> float:
    """The mean of `effective_sample_size` over the classes of labels (N,), of weights (N,)."""
    return float(np.mean([effective_sample_size(weights[labels == index]) for index in np.unique(labels)]))
