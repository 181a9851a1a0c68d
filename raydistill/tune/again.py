"""A sweep's own command, given again so that it computes what it lacks, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from raydistill.pipeline.verify import Again, of_run
from raydistill.store import seals
from raydistill.store.rundir import TRIALS
from raydistill.store.verification import Contents

if TYPE_CHECKING:
    from raydistill.tune.plan import SweepPlan


@dataclass(frozen=True)
class SweepCommand:
    """What made a sweep."""

    plan: SweepPlan

    def run(self) -> None:
        """Raises StageFailed; the sweep can then be continued by its own command."""
        from raydistill.pipeline import tracked
        from raydistill.tune import sweep

        held_out = self.plan.held_out
        with held_out.run.at_work(self.plan.config.yaml()) as claim:
            sweep.carry(self.plan, tracked.check(held_out), claim)


def command_of(contents: Contents) -> Again:
    """That of a run or of a sweep. Raises StageFailed if it cannot be made again."""
    if TRIALS not in {*contents.root.list(), *seals.names(contents.root)}:
        return of_run(contents)
    from raydistill.pipeline.again import configured, same_images
    from raydistill.tune import sweep

    with configured(contents) as config:
        plan = sweep.planned(config)
        same_images(contents, plan.held_out, plan.tested)
    return SweepCommand(plan)
