"""What a sweep has found: its trials, and where the best of them stand."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from raydistill.report.scores import Measure
from raydistill.tune import objectives
from raydistill.tune.drawing import Candidate
from raydistill.tune.trials import Measurement
from raydistill.tune.verdict import Stand


@dataclass(frozen=True)
class TrialRow:
    """A trial with its objectives, or with why it has none."""

    number: int
    measured: Measurement
    values: dict[str, float] = field(default_factory=dict)
    failed: str = ""

    @property
    def candidate(self) -> Candidate:
        return self.measured.candidate


@dataclass
class Findings:
    """What a sweep has found so far. `stands` are by verdict.SEARCH, AGAIN and TEST."""

    directions: dict[str, objectives.Direction]
    measure: Measure
    rows: list[TrialRow] = field(default_factory=list)
    default: Measurement | None = None
    again: list[Measurement] = field(default_factory=list)  # the finalists, by seeds that no trial has seen
    winner: int = 0  # of these
    stands: dict[str, Stand] = field(default_factory=dict)

    def ranked(self) -> list[TrialRow]:
        """Rows with objectives, best first; of several objectives those of the front first. What was stopped early
        stands behind what was not, whoever came furthest first."""
        whole = [r for r in self.rows if not r.failed]
        first, direction = next(iter(self.directions.items()))
        best = [whole[i] for i in objectives.front([r.values for r in whole], self.directions)] if whole else []
        sign = -1 if direction == "max" else 1
        return sorted(
            whole,
            key=lambda r: (-(r.measured.stopped or math.inf), r not in best, sign * r.values[first], r.number),
        )
