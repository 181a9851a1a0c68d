"""A curve with its spread."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Line:
    """x, mean and std (n,), x ascending. `main` marks the distilled set of this report."""

    name: str
    x: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    main: bool = False
