"""What sets are called, and how good one student is that was trained on one of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

RANDOM = "random"
FULL = "full data"  # in as many image visits as the distilled sets
TO_THE_END = f"{FULL}, to the end"  # for epochs of its own
FULL_BALANCED = f"{FULL}, classes alike"  # in batches that draw all classes equally often
BOUNDS = (FULL, TO_THE_END, FULL_BALANCED)  # what no distilled set is measured among
Measure = Literal["top-1", "balanced"]


@dataclass(frozen=True)
class ScoreRow:
    """Accuracy of one student trained on one set, fractions 0..1, over `seeds` trainings, equally many on each draw.

    Mean and std are over generation seeds where there are several `generations`, otherwise over trainings.

    `set` is a method's name, "random" (RANDOM) or one of BOUNDS; `main` marks the distilled set of this report.
    A single training has no spread: its std are None. `balanced` is the mean over classes, at the end of training.
    `visits` are the images that a training sees, 0 where that is not known; `stored` the bytes of the encoded images
    and of the soft labels stored with them.
    """

    set: str
    student: str
    seeds: int
    last_mean: float
    last_std: float | None
    best_mean: float
    best_std: float | None
    images: int
    main: bool
    balanced_mean: float = math.nan
    balanced_std: float | None = None
    generations: int = 1
    visits: int = 0
    stored: tuple[int, int] | None = None

    @property
    def units(self) -> int:
        """What mean and std are over."""
        return self.generations if self.generations > 1 else self.seeds

    def value(self, measure: Measure) -> float:
        """The mean at the end of training, a fraction."""
        return self.balanced_mean if measure == "balanced" else self.last_mean

    def std(self, measure: Measure) -> float | None:
        return self.balanced_std if measure == "balanced" else self.last_std
