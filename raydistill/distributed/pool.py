"""The pool of sampler actors: ours, because Ray Data's can stick at one replica or hang on a dead actor without a word.

Actors stay warm between stages, so several methods or trials in one run pay for processes, imports and networks once;
`make_room` ends as many of them as what comes next needs to be placed. On a cluster that was joined a team asks in
every round how many actors there is room for: it comes to use nodes that join, and gives back those it has no work for
and those that are about to go.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError

from raydistill.config import Pool
from raydistill.distributed.attempts import ATTEMPTS
from raydistill.distributed.failures import translate
from raydistill.distributed.leaving import Leaving
from raydistill.distributed.node_log import node_id
from raydistill.distributed.resources import SCHEDULING, Reservation, Room, of_pool
from raydistill.distributed.runtime import fitting, may_grow, pool_size, room
from raydistill.errors import StageFailed
from raydistill.stages.runner import Stage, Work
from raydistill.store.artifact import Record

IDLE_S = 30.0  # an actor that had no work for so long lets the joined cluster have its node back
_warm: dict[tuple[str, float, float], list[Idle]] = {}  # actors by Ray session and what they reserve


class Worker:
    """An actor of the pool: loads once a stage, then one unit a call."""

    def __init__(self) -> None:
        self.stage = ""
        self.finish: Callable[[Any], Record] | None = None

    def up(self) -> str:
        """Answers, with its node, when the actor has been placed and started."""
        return node_id()

    def run(self, stage: str, work: Work, item: Any) -> tuple[Record, str]:
        if self.finish is None or stage != self.stage:
            self.stage, self.finish = stage, work.open()
        return self.finish(work.load(item)), node_id()


@dataclass(frozen=True)
class StageUnit:
    """A key of a stage; `work` is where Ray has its work, whose `name` is the same for all of its units.

    `first` is what it came to, and where, if it is to be computed once more for comparison.
    """

    stage: Stage
    name: str
    work: Any
    key: str
    first: tuple[Record, str] | None = None


@dataclass
class Assignment:
    unit: StageUnit
    actor: Any
    node: str
    started: float

    def seconds(self) -> float:
        return time.monotonic() - self.started


@dataclass
class Idle:
    actor: Any
    since: float
    node: str = ""  # where it was when it last answered


class Team:
    """The actors of one stage: starting, idle or running. One that is not up holds nothing back."""

    def __init__(self, stage: Stage, units: int) -> None:
        self.name, self.pool, self.units = stage.name, stage.pool, units
        self.reservation = of_pool(stage.name, stage.pool)
        self.size = pool_size(self.reservation, stage.pool.threads, units)
        self.idle = take(stage.pool, self.reservation, self.size)
        self.starting: dict[Any, Any] = {}  # what an actor answers when it is up -> the actor
        self.running: dict[Any, Assignment] = {}
        self.lost, self.moved = 0, time.monotonic()
        self.leaving = Leaving(stage.name, "it is given no more units; what it does not finish is tried elsewhere")

    def ready(self) -> bool:
        """Whether somebody may be given a unit. Those who wait for one on a node that is about to go are ended."""
        for one in [i for i in self.idle if self.leaving.has(i.node)]:
            self.idle.remove(one)
            ray.kill(one.actor)
        return bool(self.idle) and len(self.running) < self.size

    @property
    def workers(self) -> int:
        return len(self.idle) + len(self.starting) + len(self.running)

    def fill(self, waiting: int) -> None:
        """Starts what is missing to the size that there is room for now, but not more than there are units waiting."""
        if may_grow():
            self.size = fitting(self.reservation, self.pool.threads, self.units)
            self._give_back(waiting)
        lacking = min(self.size - len(self.running), waiting) - len(self.idle) - len(self.starting)
        for _ in range(lacking):
            actor = start(self.pool)
            self.starting[actor.up.remote()] = actor

    def _give_back(self, waiting: int) -> None:
        """Ends those who wait for a place that nobody needs or that has gone, and those who are idle for long."""
        wanted = max(0, min(self.size - len(self.running) - len(self.idle), waiting))
        for ref in list(self.starting)[wanted:]:
            ray.kill(self.starting.pop(ref))
        now, surplus = time.monotonic(), len(self.running) + len(self.idle) - self.size
        for one in [i for n, i in enumerate(self.idle) if n < surplus or now - i.since > IDLE_S]:
            self.idle.remove(one)
            ray.kill(one.actor)

    def wait(self) -> list[Any]:
        """What has finished among the running, after a few seconds at most; whoever has come up is idle.

        Raises StageFailed if nobody runs and nobody could be placed for the deadline.
        """
        done, _ = ray.wait([*self.running, *self.starting], num_returns=1, timeout=min(5.0, self.pool.deadline_s))
        for ref in done:
            if ref in self.starting:
                self._admit(ref)
        if done or self.running:
            self.moved = time.monotonic()
        elif time.monotonic() - self.moved > self.pool.deadline_s:
            raise StageFailed(
                f"{self.name}: no actor could be placed for {self.pool.deadline_s:g} s; the cluster lacks CPUs or GPUs "
                f"(see `ray status`); add a node or lower {self.reservation.section}.num_gpus, then run the same "
                "command again"
            )
        return [ref for ref in done if ref in self.running]

    def give(self, unit: StageUnit, avoided: Collection[str] = ()) -> None:
        """To one who is idle, on a node that is not to be avoided if there is one."""
        one = next((i for i in reversed(self.idle) if i.node not in avoided), self.idle[-1])
        self.idle.remove(one)
        ref = one.actor.run.remote(unit.name, unit.work, unit.stage.items(unit.key))
        self.running[ref] = Assignment(unit, one.actor, one.node, time.monotonic())

    def late(self, done: Sequence[Any]) -> list[Any]:
        """Of those that run and are not done, those whose deadline is over."""
        return [r for r, job in self.running.items() if r not in done and job.seconds() > self.pool.deadline_s]

    def tries(self, unit: StageUnit) -> list[Any]:
        """Those that run the unit."""
        return [r for r, job in self.running.items() if (job.unit.name, job.unit.key) == (unit.name, unit.key)]

    def dismiss(self, ref: Any) -> None:
        """Ends who runs this: what it is at is done."""
        ray.kill(self.running.pop(ref).actor)

    def _admit(self, ref: Any) -> None:
        actor = self.starting.pop(ref)
        try:
            node = ray.get(ref)
        except RayError as e:  # its node went, or it cannot start
            self.lost += 1
            if self.lost >= ATTEMPTS * self.size:
                raise translate(e, self.name) from e
        else:
            self.rest(actor, node)

    def rest(self, actor: Any, node: str) -> None:
        """It is idle; or ended, on a node that is about to go."""
        if self.leaving.has(node):
            ray.kill(actor)
            return
        self.idle.append(Idle(actor, time.monotonic(), node))

    def keep_warm(self) -> None:
        """Leaves the idle ones to the next stage."""
        _warm.setdefault(_shape(self.pool), []).extend(self.idle)
        self.idle = []

    def end(self) -> None:
        for actor in [
            *(i.actor for i in self.idle),
            *self.starting.values(),
            *(job.actor for job in self.running.values()),
        ]:
            ray.kill(actor)


def take(pool: Pool, reservation: Reservation, size: int) -> list[Idle]:
    """The warm actors that reserve the same; of others, as many are ended as `size` of these need to be placed."""
    warm = _warm.pop(_shape(pool), [])
    make_room(reservation, max(size, len(warm)))
    return [Idle(one.actor, time.monotonic(), one.node) for one in warm]


def make_room(reservation: Reservation, workers: int) -> None:
    """Ends as many warm actors as `workers` need to be placed: a GPU that they hold would never be free for others.

    On a cluster that was joined all of them: what the rest leaves free may lie in pieces on several nodes, and a node
    on which one idles through hours of something else could not be given back.
    """
    session, have = _session(), room()
    for shape in [s for s in _warm if s[0] != session]:  # they ended with their Ray
        del _warm[shape]
    while _warm and (may_grow() or reservation.fits(_beside_warm(have)) < workers):
        shape = next(iter(_warm))
        if _warm[shape]:
            ray.kill(_warm[shape].pop().actor)
        else:
            del _warm[shape]


def release() -> None:
    """Ends all actors that stages left warm: what is timed next starts its own."""
    if ray.is_initialized():
        for one in [i for shape, idle in _warm.items() if shape[0] == _session() for i in idle]:
            ray.kill(one.actor)
    _warm.clear()


def _beside_warm(have: Room) -> Room:
    """What warm actors leave free; a share of a GPU counts as a whole one, since the shares may lie on several."""
    held = [(cpus, math.ceil(gpus), len(warm)) for (_, cpus, gpus), warm in _warm.items()]
    return Room(have.cpus - sum(c * n for c, _, n in held), have.gpus - sum(g * n for _, g, n in held))


def _session() -> str:
    return ray.get_runtime_context().get_node_id()


def _shape(pool: Pool) -> tuple[str, float, float]:
    return _session(), pool.num_cpus, pool.num_gpus


def start(pool: Pool) -> Any:
    options = {"num_cpus": pool.num_cpus, "num_gpus": pool.num_gpus, "scheduling_strategy": SCHEDULING}
    return ray.remote(Worker).options(**options).remote()
