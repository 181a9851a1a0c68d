"""The accuracy of one set with what it can be wrong by: over seeds, and with the choice of test images on top."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from raydistill.report import wording
from raydistill.report.scores import Measure
from raydistill.report.text import percent
from raydistill.results import over_images
from raydistill.results import statistics as st
from raydistill.results.judgement import measures
from raydistill.results.pairing import TrainingOutcome, seeds
from raydistill.sources.base import uneven


@dataclass(frozen=True)
class Accuracy:
    """Fractions. `seeds` is None for a single training, `images` where the answers to the test images are not known."""

    mean: float
    seeds: st.Interval | None
    images: st.Interval | None

    @property
    def cells(self) -> list[str]:
        """Of a table: the mean in percent, and both intervals."""
        return [percent(self.mean), shown(self.seeds), shown(self.images)]


def accuracy(outcomes: Sequence[TrainingOutcome], measure: Measure = "top-1") -> Accuracy:
    """Of the trainings of one set and student; each generation seed is one unit (docs/statistics.md)."""
    clusters = [np.array([o.value(measure) for o in by.values()]) for by in seeds(outcomes).values()]
    answers = [o.answers for o in outcomes if o.answers is not None]
    centre, interval, images = st.mean(clusters), st.bootstrap(clusters), None
    if len(answers) == len(outcomes):
        nothing = tuple(np.zeros_like(a) for a in answers[0])
        error = over_images.error([(a, nothing) for a in answers], measure == "balanced")
        images = (interval or st.Interval(centre, centre)).widened(centre, error)
    return Accuracy(centre, interval, images)


def compared_by(outcomes: Sequence[TrainingOutcome]) -> tuple[Measure, ...]:
    """What sets are compared by, what leads first: also the mean over classes where the test images are uneven and all
    answers to them are known. Over test images that are even it is top-1."""
    tested = [np.array([len(a) for a in o.answers or ()]) for o in outcomes]  # whichever images, of each training
    return measures(all(map(len, tested)) and any(map(uneven, tested)))


def over_classes(outcomes: Sequence[TrainingOutcome]) -> str:
    """The mean over classes in percent; cells of earlier versions do not know it."""
    return "–" if any(o.answers is None for o in outcomes) else accuracy(outcomes, "balanced").cells[0]


def shown(interval: st.Interval | None) -> str:
    return "–" if interval is None else wording.interval(interval.low, interval.high)
