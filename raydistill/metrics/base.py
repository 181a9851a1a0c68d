"""What a metric is: what it remembers of either set, and a formula. Everything else is shared.

Arrays come in, numbers go out: a metric knows no file, no network and no Ray. Whoever calls it extracts the features,
and puts the extractor's name into the names of the values.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, Self

import numpy as np

LARGEST = 1e15  # larger numbers have squares that float32 cannot hold


@dataclass(frozen=True)
class Value:
    """How a number reads: its name, which way is better, and what the real set scores against itself at least."""

    name: str
    better: Literal["lower", "higher"] | None
    ideal: float | None = None


class Side(Protocol):
    """What is remembered of one set (`memory.py`): mergeable, and the same whatever the batches or their order."""

    count: int
    total: float  # sum of weights
    width: int | None

    def add(self, x: np.ndarray, y: np.ndarray, w: np.ndarray) -> None: ...

    def merge(self, other: Any) -> None: ...


class Metric(ABC):
    """Subclass, set the class variables, write `sides` and `evaluate`, register under `name`.

    `values` lists whatever `compute` may return. `space` is where the metric is meant to be read: features of a
    classifier, VAE latents as vectors, or both.
    """

    name: ClassVar[str]
    space: ClassVar[Literal["feature", "latent", "both"]]
    summary: ClassVar[str]
    values: ClassVar[tuple[Value, ...]]

    def __init__(self, classes: int, seed: int = 0) -> None:
        if classes < 1:
            raise ValueError(f"{self.name}: classes={classes} must be at least 1")
        self.classes, self.seed = classes, seed
        self.real, self.synthetic = self.sides()

    @abstractmethod
    def sides(self) -> tuple[Any, Any]:
        """What is remembered of the real and of the synthetic set: two empty `Side`s."""

    @abstractmethod
    def evaluate(self) -> Mapping[str, float | None]:
        """The values; None for one that these sets do not define. Both sides hold at least one row of weight."""

    def update_real(self, x: Any, y: Any) -> None:
        """x (n, D) float32, y (n,) integers in [0, classes); numpy arrays or tensors. Raises ValueError in one line."""
        self.real.add(*self._checked("real", x, y, None))

    def update_synthetic(self, x: Any, y: Any, w: Any = None) -> None:
        """x (m, D) float32, y (m,) integers, w (m,) non-negative weights (None = equal ones). Raises ValueError."""
        self.synthetic.add(*self._checked("synthetic", x, y, w))

    def merge(self, other: Self) -> None:
        """Takes in what `other` has seen; `other` stays as it is. Raises ValueError for a metric of another making."""
        mine, its = ((type(m), m.classes, m.seed) for m in (self, other))
        if mine != its:
            raise ValueError(f"{self.name}: cannot merge {its} into {mine}: metric, classes and seed must be the same")
        self._same_width(self.real.width or self.synthetic.width, other.real.width or other.synthetic.width)
        self.real.merge(other.real)
        self.synthetic.merge(other.synthetic)

    def compute(self) -> dict[str, float]:
        """The values by name. One that is not defined for these sets is left out; none is ever NaN or infinite.

        Raises ValueError if a side is empty or weighs nothing.
        """
        for side, held in (("real", self.real), ("synthetic", self.synthetic)):
            if not held.total > 0:
                what = "no rows" if held.count == 0 else "weights that sum to zero"
                raise ValueError(f"{self.name}: the {side} set has {what}")
        values = {name: float(value) for name, value in self.evaluate().items() if value is not None}
        broken = [name for name, value in values.items() if not math.isfinite(value)]
        if broken:
            raise ValueError(f"{self.name}: {', '.join(broken)} came out as NaN or infinity")
        return values

    def _checked(self, side: str, x: Any, y: Any, w: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        x, y = _array(x), _array(y)
        where = f"{self.name}: {side}"
        if x.ndim != 2 or x.shape[1] == 0 or not np.issubdtype(x.dtype, np.floating):
            raise ValueError(f"{where} vectors must be floats of shape (n, D), not {x.dtype} of shape {x.shape}")
        if y.shape != (len(x),) or not np.issubdtype(y.dtype, np.integer):
            raise ValueError(f"{where} labels must be integers of shape ({len(x)},), not {y.dtype} of shape {y.shape}")
        self._same_width(self.real.width or self.synthetic.width, x.shape[1])
        outside = np.flatnonzero((y < 0) | (y >= self.classes))
        if len(outside):
            row = outside[0]
            raise ValueError(f"{where} label {y[row]} of row {row} is outside of the classes 0 to {self.classes - 1}")
        x = x.astype(np.float32, copy=False)
        usable = (np.abs(x) <= LARGEST).all(axis=1)
        if not usable.all():
            count, first = np.sum(~usable), usable.argmin()
            raise ValueError(f"{where} vectors are NaN, infinite or beyond {LARGEST:g} in {count} rows, first {first}")
        w = np.ones(len(x)) if w is None else _array(w).astype(np.float64, copy=False)
        if w.shape != (len(x),):
            raise ValueError(f"{where} weights must have the shape ({len(x)},), not {w.shape}")
        if not (np.isfinite(w) & (w >= 0)).all():
            raise ValueError(f"{where} weights must be finite and at least 0")
        return x, y.astype(np.int64, copy=False), w

    def _same_width(self, one: int | None, other: int | None) -> None:
        if one and other and one != other:
            raise ValueError(f"{self.name}: vectors of {one} and of {other} numbers cannot be compared")


def _array(a: Any) -> np.ndarray:
    return a.detach().cpu().numpy() if hasattr(a, "detach") else np.asarray(a)
