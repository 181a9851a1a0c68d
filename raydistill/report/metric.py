"""A metric's row on the page: its values, which of them is best, and whether they say anything."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from raydistill.report.text import number


@dataclass(frozen=True)
class MetricRow:
    """A value of every set, in the order of `ReportData.metric_sets`; None where a set has none."""

    name: str
    space: str
    better: Literal["lower", "higher"] | None
    numbers: tuple[float | None, ...]

    @property
    def finite(self) -> list[float]:
        return [v for v in self.numbers if v is not None and math.isfinite(v)]

    @property
    def says_nothing(self) -> bool:
        """Of several sets it tells none from another: so few images are too few for it, or it is at its end."""
        return len(self.finite) > 1 and len(set(map(number, self.finite))) == 1

    @property
    def best(self) -> tuple[int, ...]:
        """The sets with the best value as it is printed, if there is a better and a worse."""
        if self.better is None or self.says_nothing or len(self.finite) < 2:
            return ()
        end = max(self.finite) if self.better == "higher" else min(self.finite)
        return tuple(i for i, v in enumerate(self.numbers) if v is not None and number(v) == number(end))
