"""How near the atoms of a set are to the real latents of their class, as the page shows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class AtomDistances:
    """Wasserstein-2 of the real latents of each class to the prototypes or syntheses of a set, squared, (K,) each: with
    `equal` masses, `weighted` as the set is, and the `least` that masses can give."""

    set: str
    what: Literal["prototypes", "syntheses"]
    equal: np.ndarray
    weighted: np.ndarray
    least: np.ndarray

    def overall(self) -> dict[str, float]:
        """W2 over all classes, the root of the mean square."""
        return {name: float(getattr(self, name).mean() ** 0.5) for name in ("equal", "weighted", "least")}

    def of_class(self, row: int) -> tuple[float, float, float]:
        """W2 of one class: equal, weighted, least."""
        return tuple(float(v[row] ** 0.5) for v in (self.equal, self.weighted, self.least))  # type: ignore[return-value]

    @property
    def drop(self) -> float:
        """By which share weights bring W2 down."""
        w2 = self.overall()
        return 1 - w2["weighted"] / w2["equal"] if w2["equal"] > 0 else 0.0
