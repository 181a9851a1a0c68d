"""What is seen while students are trained: which are done, that nothing moves, how much room the cluster has by now."""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from raydistill.distributed.attempts import ATTEMPTS
from raydistill.distributed.leaving import Leaving
from raydistill.distributed.resources import of_students
from raydistill.errors import StageFailed
from raydistill.progress import Progress, say
from raydistill.stages.evaluation.trainer import Job

if TYPE_CHECKING:
    from raydistill.distributed.fits import Unplaced


class Watch:
    """Over all fits of a list of trainings. `open`: those that have not been seen to be committed.

    `workers`: how many the fit of `job` has; `recalled`: it is to end early, since there is room for more; `lost`: it
    ended since workers were lost, and another goes on.
    """

    def __init__(self, job: Job, progress: Progress) -> None:
        self.job, self.open, self.progress = job, list(job.trainings), progress
        self.moved, self.died = time.monotonic(), 0
        self.workers, self.recalled, self.had_room = 0, False, False
        self.lost, self.kept = False, self._kept()
        self.leaving = Leaving("evaluate", "its trainings go on elsewhere, each from its last test")

    def begin(self, job: Job) -> None:
        """The next fit, of the trainings that are open."""
        from raydistill.distributed.runtime import pool_size

        self.job, self.recalled, self.lost, e = job, False, False, job.evaluate
        self.workers = self.workers or pool_size(of_students(e), e.threads, len(self.open))
        self._look()

    def probe(self) -> None:
        """Raises StageFailed when no training has finished for the deadline."""
        self.leaving.probe()
        done = []
        with contextlib.suppress(OSError):  # a store that does not answer now may answer at the next look
            done = [t for t in self.open if self.job.done(t)]
        deadline_s = self.job.evaluate.deadline_s
        if done:
            self.open = [t for t in self.open if t not in done]
            self.progress.advance(len(done))
            self.moved, self.died = time.monotonic(), 0
        elif self.open and time.monotonic() - self.moved > deadline_s:
            raise StageFailed(
                f"evaluate: no training finished for {deadline_s:g} s ({self.open[0].label} is open); the workers "
                "hang or could not be placed (see `ray status`); run the same command again, or raise "
                "evaluate.deadline_s"
            )
        more = self._look() > self.workers and len(self.open) > self.workers
        if more and not self.recalled:
            with contextlib.suppress(OSError, StageFailed):  # at the next look
                self.job.call_back()
                self.recalled = True

    def outlives(self, error: Exception) -> bool:
        """Whether another fit goes on after one whose workers were lost ATTEMPTS times and once more.

        On a cluster that was joined, when something was kept since the last time: its machines may go as often as they
        like. Not after what a worker raised itself, nor where memory is full: that comes again.
        """
        from raydistill.distributed.failures import FULL_MEMORY, cause, last_line
        from raydistill.distributed.runtime import may_grow

        if not may_grow() or cause(error) is not None or last_line(error) == FULL_MEMORY:
            return False
        before, self.kept = self.kept, self._kept()
        self.lost = self.kept != before
        if self.lost:
            say("evaluate", f"workers were lost {ATTEMPTS + 1} times; what they kept meanwhile is gone on with")
        return self.lost

    def _kept(self) -> tuple[int, frozenset[str]]:
        """What changes with everything that trainings keep: how many are open, and the names of their states."""
        with contextlib.suppress(OSError):
            return len(self.open), frozenset(
                name for t in self.open for name in t.state(self.job.checkpoints).folder.list()
            )
        return len(self.open), frozenset()

    def resize(self, unplaced: Unplaced | None) -> None:
        """After a fit that left some open. Raises StageFailed when workers keep dying as they start."""
        from raydistill.distributed.failures import translate
        from raydistill.distributed.runtime import fitting

        if unplaced is not None and unplaced.died:
            self.died += 1
            if self.died >= ATTEMPTS:
                raise translate(unplaced.__cause__ or unplaced, "evaluate") from unplaced
        before, e, left = self.workers, self.job.evaluate, len(self.open)
        # a number that was asked for is waited for, until it has been there
        self.workers = max(1, self._look()) if self.had_room else fitting(of_students(e), e.threads, left)
        if self.workers != before and left:
            more = self.workers > before
            why = "the cluster has grown" if more else "the cluster has lost places"
            say("evaluate", f"{why}: {left} trainings are left to {self.workers} workers instead of {before}")

    def _look(self) -> int:
        """How many workers there is a place for by now; those of a private cluster were all that it has."""
        from raydistill.distributed.runtime import may_grow, placeable

        e = self.job.evaluate
        if not may_grow():
            self.had_room = True
            return self.workers
        students = of_students(e)
        self.had_room |= placeable(replace(students, spare=0), e.threads, len(self.open)) >= self.workers
        return placeable(students, e.threads, len(self.open))
