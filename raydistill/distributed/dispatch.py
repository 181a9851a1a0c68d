"""Which unit goes to whom: the actors of a pool (`pool.py`) are given those of stages until each is done or given up.

A unit whose actor dies, or that is not done by its deadline, goes to another actor, ATTEMPTS times. When none waits any
more, one that takes much longer than others did is tried on a second actor meanwhile, on another node if there is one.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import RayError

from raydistill.distributed.attempts import Attempts
from raydistill.distributed.failures import cause, translate
from raydistill.distributed.pool import Assignment, StageUnit, Team
from raydistill.errors import DeterminismFault, RaydistillError
from raydistill.identity import digest
from raydistill.progress import Queued, Retried, say, tell
from raydistill.stages.runner import Stage
from raydistill.store.artifact import Record

Finished = tuple[Record, str]  # a record and the node that computed it


def actors(stage: Stage, todo: Sequence[str], recompute: float = 0.0) -> Iterator[Finished]:
    """Records with their nodes, as actors come free. Raises the stage's error when what can be done is done."""
    for _, finished in together([(stage, todo)], recompute):
        if isinstance(finished, RaydistillError):
            raise finished
        yield finished


def together(
    requested: Sequence[tuple[Stage, Sequence[str]]], recompute: float = 0.0
) -> Iterator[tuple[Stage, Finished | RaydistillError]]:
    """`actors` for several stages that reserve the same: no actor waits while any of them has units left.

    A stage that fails yields its error and gives away no more units; the others go on.
    """
    dispatch = Dispatch(requested, recompute)
    team = dispatch.team
    try:
        while dispatch.waiting or team.running:
            dispatch.hand_out()
            tell(Queued(team.name, len(dispatch.waiting), len(team.running), team.workers))
            done = team.wait()
            for ref in [*done, *team.late(done)]:
                if ref in team.running:  # another try at its unit may have come first
                    yield from dispatch.settle(ref, ref in done)
        yield from dispatch.left_over()
        team.keep_warm()
    finally:
        team.end()
        tell(Queued(team.name, 0, 0, 0))


class Dispatch:
    """The units of stages, waiting or running, and what has become of the tries at them."""

    def __init__(self, requested: Sequence[tuple[Stage, Sequence[str]]], recompute: float) -> None:
        """`recompute` is the share of the units that are computed once more, on another node if there is one."""
        units = list(_units(requested))
        self.team, self.waiting, self.recompute = Team(requested[0][0], len(units)), deque(units), recompute
        counts = Counter(unit.name for unit in units)
        self.stages = {unit.name: unit.stage for unit in units}
        self.attempts = {name: Attempts(stage.name, counts[name]) for name, stage in self.stages.items()}
        self.ended: set[str] = set()

    def hand_out(self) -> None:
        while self.waiting and self.team.ready():
            unit = self.waiting.popleft()
            elsewhere = {unit.first[1]} if unit.first else self.attempts[unit.name].avoided(unit.key)
            self.team.give(unit, elsewhere)
        slow = [] if self.waiting else self._stragglers()
        while slow and self.team.ready():
            job = slow.pop()
            slow_for = f"{job.seconds():.0f} s"
            say(job.unit.stage.name, f"{job.unit.key} is slow ({slow_for}): it is tried on another worker too")
            tell(Retried(job.unit.stage.name, job.unit.key, f"it has been running for {slow_for}"))
            self.team.give(job.unit, {job.node})
        self.team.fill(len(self.waiting) + len(slow))

    def _stragglers(self) -> list[Assignment]:
        """Those that run alone for much longer than others took."""
        running = self.team.running.values()
        slow = [job for job in running if self.attempts[job.unit.name].slow(job.seconds())]
        return [job for job in slow if len(self.team.tries(job.unit)) == 1]

    def settle(self, ref: Any, done: bool) -> Iterator[tuple[Stage, Finished | RaydistillError]]:
        """What one who is done, or late, has come to."""
        job = self.team.running.pop(ref)
        try:
            if not done:
                raise TimeoutError(f"is not done after {job.unit.stage.pool.deadline_s:g} s")
            finished = ray.get(ref)
        except (RayError, TimeoutError) as e:
            ray.kill(job.actor)
            yield from self._failed(job, e)
        else:
            for other in self.team.tries(job.unit):
                self.team.dismiss(other)
            self.team.rest(job.actor, finished[1])
            yield from self._finished(job, finished)

    def _failed(self, job: Assignment, e: Exception) -> Iterator[tuple[Stage, RaydistillError]]:
        unit, attempts = job.unit, self.attempts[job.unit.name]
        if cause(e) is not None:  # it said itself what is wrong: another try would say the same
            yield from self._end(unit.name, translate(e, unit.stage.name), e)
            return
        attempts.fail(unit.key, job.node, e)
        if unit.name in self.ended or self.team.tries(unit):
            return
        if attempts.again(unit.key):
            self.waiting.append(unit)
        elif attempts.over():
            yield from self._end(unit.name, attempts.error(), e)

    def _finished(self, job: Assignment, finished: Finished) -> Iterator[tuple[Stage, Finished | RaydistillError]]:
        unit, attempts = job.unit, self.attempts[job.unit.name]
        attempts.done(unit.key, job.seconds())
        if unit.first is None:
            yield unit.stage, finished
            if unit.name not in self.ended and chosen(unit.key, self.recompute):
                self.waiting.append(replace(unit, first=finished))
        elif fault := disagreement(unit.stage, unit.first, finished):
            yield from self._end(unit.name, fault, None)

    def _end(self, name: str, error: RaydistillError, e: Exception | None) -> Iterator[tuple[Stage, RaydistillError]]:
        if name not in self.ended:
            self.ended.add(name)
            self.waiting = deque(unit for unit in self.waiting if unit.name != name)
            error.__cause__ = e
            yield self.stages[name], error

    def left_over(self) -> Iterator[tuple[Stage, RaydistillError]]:
        """The errors of stages of which a few units were given up, and everything else is done."""
        for name, attempts in self.attempts.items():
            if attempts.given_up():
                yield from self._end(name, attempts.error(), None)


def _units(requested: Sequence[tuple[Stage, Sequence[str]]]) -> Iterator[StageUnit]:
    for stage, todo in requested:
        work = ray.put(stage.work)
        # its name is not the fingerprint: the same stage of two run directories has two places to write to
        yield from (StageUnit(stage, work.hex(), work, key) for key in todo)


def chosen(key: str, share: float) -> bool:
    """Whether a unit is among the share that is computed once more."""
    return int(digest(key.encode())[:8], 16) < share * 2**32


def disagreement(stage: Stage, first: Finished, second: Finished) -> DeterminismFault | None:
    """What is wrong if one kind of device has computed a unit twice with different bytes."""
    (one, node), (other, elsewhere) = first, second
    if not other.contradicts(one):
        return None
    return DeterminismFault(
        f"{stage.name}: {one.key} has other bytes on {elsewhere} than on {node}, both {one.device!r} ({one.file}, "
        f"{other.file} under {stage.artifact.location}): one of the two computes wrong; find out which, take it out of "
        "the cluster, delete that folder and run the same command again"
    )
