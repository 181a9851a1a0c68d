"""What the best of a sweep are worth: scores with intervals, and how far the winner is ahead of the default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from raydistill.report.scores import Measure
from raydistill.results import over_images
from raydistill.results import statistics as st
from raydistill.tune.objectives import by_seed
from raydistill.tune.trials import Measurement

SEARCH, AGAIN, TEST = "search", "again", "test"
WHERE = {
    SEARCH: "held out, by the seeds of the search",
    AGAIN: "held out, by seeds that no trial has seen",
    TEST: "test images, by further seeds",
}


@dataclass(frozen=True)
class Estimate:
    """A mean accuracy, or a difference of two, as a fraction with its 95 % interval over seeds (and test images, of a
    difference whose answers are kept); None for a single seed."""

    mean: float
    low: float | None
    high: float | None
    seeds: int

    @property
    def ahead(self) -> bool:
        return self.low is not None and self.low > 0


@dataclass(frozen=True)
class Stand:
    """Where winner and default stand: on one of WHERE, and how much the winner is ahead, in pairs."""

    where: str
    winner: Estimate
    default: Estimate
    difference: Estimate

    def tree(self) -> dict[str, Any]:
        named = {k: asdict(getattr(self, k)) for k in ("winner", "default", "difference")}
        return {"on": WHERE[self.where], "line": str(self), **named}

    def __str__(self) -> str:
        difference = f"{100 * self.difference.mean:+.1f} points{interval(self.difference)}"
        return f"winner {shown(self.winner)}, default {shown(self.default)}, {difference}"


def score(measured: Measurement, measure: Measure) -> Estimate:
    """Over seeds, each the mean of its students; an accuracy is nowhere below 0 or above 1."""
    estimate = _estimate([np.array([c.mean()]) for c in by_seed(measured.outcomes, measure)])
    if estimate.low is None or estimate.high is None:
        return estimate
    return replace(estimate, low=max(0.0, estimate.low), high=min(1.0, estimate.high))


def stand(where: str, winner: Measurement, default: Measurement, measure: Measure) -> Stand:
    a, b = (by_seed(m.outcomes, measure) for m in (winner, default))
    answers = [(x.answers, y.answers) for x, y in zip(winner.outcomes, default.outcomes, strict=True)]
    clusters = [np.array([(x - y).mean()]) for x, y in zip(a, b, strict=True)]
    paired = replace(_estimate(st.unrounded(clusters, over_images.step(answers))), mean=st.mean(clusters))
    known = [(x, y) for x, y in answers if x is not None and y is not None]
    if paired.low is not None and paired.high is not None and known and len(known) == len(answers):
        error = over_images.error(known, measure == "balanced")
        wide = st.Interval(paired.low, paired.high).widened(paired.mean, error)
        paired = Estimate(paired.mean, wide.low, wide.high, paired.seeds)
    return Stand(where, score(winner, measure), score(default, measure), paired)


def first_line(stands: Mapping[str, Stand], winner: str) -> str:
    """Whether the search was worth it, by the test images."""
    test = stands[TEST]
    difference = f"{100 * test.difference.mean:+.1f} points{interval(test.difference)}"
    if test.difference.ahead:
        return f"{winner} is ahead of the default on the test images: {difference}"
    return f"{winner} is not ahead of the default beyond the interval: {difference} on the test images"


def luck(stands: Mapping[str, Stand]) -> float:
    """How much of the search's lead seeds that no trial has seen did not give again, as a fraction."""
    return stands[SEARCH].difference.mean - stands[AGAIN].difference.mean


def interval(e: Estimate) -> str:
    return "" if e.low is None or e.high is None else f" [{100 * e.low:.1f}, {100 * e.high:.1f}]"


def shown(e: Estimate) -> str:
    return f"{100 * e.mean:.1f} %{interval(e)}"


def _estimate(clusters: st.Clusters) -> Estimate:
    bounds = st.bootstrap(clusters)
    return Estimate(st.mean(clusters), bounds.low if bounds else None, bounds.high if bounds else None, len(clusters))
