"""ASHA (arXiv 1810.05934): after how many tests of a training a trial may be stopped, and which are.

The cutoff is that of Ray Tune's ASHAScheduler, which decides on each result as it comes in. Here those of a round come
in together: all are recorded before one is held against the cutoff, so that nothing depends on who was done first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from raydistill.config import Config
from raydistill.errors import BadInput
from raydistill.evaluation.recipe import students_of
from raydistill.evaluation.train import count_steps, exam_steps
from raydistill.stages.evaluation import trainings
from raydistill.tune.space import Space

SAME = ("name", "budget", "epochs", "visits", "batch", "evaluations", "tested_from")  # of evaluate.protocol


@dataclass(frozen=True)
class Rungs:
    """`tests` of each rung, ascending, out of `whole`."""

    tests: tuple[int, ...]
    reduction: int
    whole: int


class Halving:
    """What trials have come to at each rung, and who goes on: one in `reduction`."""

    def __init__(self, rungs: Rungs) -> None:
        self.rungs, self.reduction = rungs.tests, rungs.reduction
        self.recorded: dict[int, list[float]] = {tests: [] for tests in rungs.tests}

    def stopped(self, rung: int, values: Mapping[int, float]) -> set[int]:
        """Which trials, by their numbers, go no further than this rung with these accuracies. Never the best so far."""
        self.recorded[rung] += values.values()
        if not values:
            return set()
        cutoff = np.percentile(self.recorded[rung], 100 * (1 - 1 / self.reduction))
        return {number for number, value in values.items() if value < cutoff}


def rungs(config: Config, classes: int, space: Space) -> Rungs | None:
    """None without ASHA. Raises BadInput for more rungs than tests, or trials that cannot be compared at them."""
    t = config.tune
    if t.scheduler == "none":
        return None
    if t.objectives != ["accuracy"]:
        raise BadInput(
            f"tune.scheduler=asha stops trials by their accuracy, and tune.objectives is {','.join(t.objectives)}; "
            "give tune.objectives=[accuracy], or tune.scheduler=none"
        )
    for knob in space.knobs:
        if knob.key in {f"evaluate.protocol.{name}" for name in SAME}:
            raise BadInput(
                f"tune.space.{knob.key}: tune.scheduler=asha compares trials after equal shares of equal trainings; "
                "leave the knob out, or give tune.scheduler=none"
            )
    whole = min(_tests(config, classes, student) for student in students_of(config.evaluate))
    first = whole // t.reduction**t.rungs
    if first == 0:
        most = next((n for n in range(t.rungs, 0, -1) if whole >= t.reduction**n), 0)
        remedy = f"lower tune.rungs to {most}" if most else "give tune.scheduler=none"
        raise BadInput(
            f"tune.rungs={t.rungs} at tune.reduction={t.reduction} are more rungs than the {whole} tests of a training "
            f"have room for; {remedy}, or raise evaluate.protocol.evaluations"
        )
    return Rungs(tuple(first * t.reduction**k for k in range(t.rungs)), t.reduction, whole)


def _tests(config: Config, classes: int, student: str) -> int:
    """How often a student is tested in a training."""
    recipe = trainings.recipe(config, classes, student)
    return len(exam_steps(recipe, count_steps(config.ipc * classes, recipe.batch, recipe.visits)))
