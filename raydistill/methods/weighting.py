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


def effective_sample_size(weights: np.ndarray) -> float:
    """(sum w)^2 / sum w^2: how many images of equal weight vary as little as these; (K,) -> in [1, K]."""
    return float(np.square(weights.sum()) / np.square(weights).sum())
