"""Whether sets can be told apart, and what they are measured against."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from raydistill.report.data import Judgement
from raydistill.report.scores import Measure
from raydistill.results import differences
from raydistill.results.numbers import score_rows, tested
from raydistill.results.pairing import TrainingOutcome
from raydistill.sources.base import uneven
from raydistill.state import Results


def judgement(done: Results, outcomes: Sequence[TrainingOutcome]) -> Judgement:
    """`outcomes` are those of its trainings."""
    train, images = done.prepared.splits.train, tested(done)
    compared = measures(train.uneven or uneven(images))
    return Judgement(
        scores=tuple(score_rows(done)),
        chance=chance(images),
        differences=tuple(differences.table(outcomes, compared)),
        measure=compared[0],
        generations=len({o.generation for o in outcomes} - {None}),
        counts=tuple(train.counts.tolist()),
        tested=tuple(images.tolist()),
    )


def measures(are_uneven: bool) -> tuple[Measure, ...]:
    """What sets are compared by. Where classes differ by more than half it is the mean over them that leads."""
    return ("balanced", "top-1") if are_uneven else ("top-1",)


def chance(tested: np.ndarray) -> float:
    """Top-1 of the best student that looks at nothing: 1 / classes, or the share of the largest class."""
    return float(max(1 / len(tested), tested.max() / tested.sum()))
