"""The pool of sampler actors: ours, because Ray Data's can stick at one replica or hang on a dead actor without a word.

Actors stay warm between stages, so several methods or trials in one run pay for processes, imports and networks once;
`make_room` ends as many of them as what comes next needs to be placed. On a cluster that was joined a team asks in
every round how many actors there is room for: it comes to use nodes that join, and gives back those it has no work for.
"""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError

from raydistill.config import Pool
from raydistill.distributed.failures import cause, translate
from raydistill.distributed.node_log import node_id
from raydistill.distributed.resources import SCHEDULING, Reservation, Room, of_pool
from raydistill.distributed.runtime import fitting, may_grow, pool_size, room
from raydistill.errors import RaydistillError, StageFailed, one_line
from raydistill.progress import Queued, Retried, tell
from raydistill.stages.runner import Stage, Work
from raydistill.store.artifact import Record

ATTEMPTS = 3
IDLE_S = 30.0  # an actor that had no work for so long lets the joined cluster have its node back
_warm: dict[tuple[str, float, float], list[Any]] = {}  # idle actors by Ray session and what they reserve


class Worker:
    """An actor of the pool: loads once a stage, then one unit a call."""

    def __init__(self) -> None:
        self.stage = ""
        self.finish: Callable[[Any], Record] | None = None

    def up(self) -> None:
        """Answers when the actor has been placed and started."""

    def run(self, stage: str, work: Work, item: Any) -> tuple[Record, str]:
        if self.finish is None or stage != self.stage:
            self.stage, self.finish = stage, work.open()
        return self.finish(work.load(item)), node_id()


@dataclass(frozen=True)
class StageUnit:
    """A key of a stage; `work` is where Ray has its work, whose `name` is the same for all of its units."""

    stage: Stage
    name: str
    work: Any
    key: str


@dataclass
class Assignment:
    unit: StageUnit
    actor: Any
    started: float


@dataclass
class Idle:
    actor: Any
    since: float


class Team:
    """The actors of one stage: starting, idle or running. One that is not up holds nothing back."""

    def __init__(self, stage: Stage, units: int) -> None:
        self.name, self.pool, self.units = stage.name, stage.pool, units
        self.reservation = of_pool(stage.name, stage.pool)
        self.size = pool_size(self.reservation, stage.pool.threads, units)
        self.idle = [Idle(actor, time.monotonic()) for actor in take(stage.pool, self.reservation, self.size)]
        self.starting: dict[Any, Any] = {}  # what an actor answers when it is up -> the actor
        self.running: dict[Any, Assignment] = {}
        self.lost, self.moved = 0, time.monotonic()

    def ready(self) -> bool:
        """Whether somebody may be given a unit."""
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
        now = time.monotonic()
        for one in [i for i in self.idle if now - i.since > IDLE_S]:
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
                f"(see `ray status`); add a node or lower {self.name}.num_gpus, then run the same command again"
            )
        return [ref for ref in done if ref in self.running]

    def give(self, unit: StageUnit) -> None:
        """To one who is idle."""
        actor = self.idle.pop().actor
        ref = actor.run.remote(unit.name, unit.work, unit.stage.items(unit.key))
        self.running[ref] = Assignment(unit, actor, time.monotonic())

    def late(self, done: Sequence[Any]) -> list[Any]:
        """Of those that run and are not done, those whose deadline is over."""
        now = time.monotonic()
        return [r for r, job in self.running.items() if r not in done and now - job.started > self.pool.deadline_s]

    def _admit(self, ref: Any) -> None:
        actor = self.starting.pop(ref)
        try:
            ray.get(ref)
        except RayError as e:  # its node went, or it cannot start
            self.lost += 1
            if self.lost >= ATTEMPTS * self.size:
                raise translate(e, self.name) from e
        else:
            self.rest(actor)

    def rest(self, actor: Any) -> None:
        self.idle.append(Idle(actor, time.monotonic()))

    def keep_warm(self) -> None:
        """Leaves the idle ones to the next stage."""
        _warm.setdefault(_shape(self.pool), []).extend(i.actor for i in self.idle)
        self.idle = []

    def end(self) -> None:
        for actor in [
            *(i.actor for i in self.idle),
            *self.starting.values(),
            *(job.actor for job in self.running.values()),
        ]:
            ray.kill(actor)


def actors(stage: Stage, todo: Sequence[str]) -> Iterator[tuple[Record, str]]:
    """Gives units to actors as they come free; yields records with their nodes.

    A dead or late actor is replaced, its unit given away, ATTEMPTS times.
    """
    for _, finished in together([(stage, todo)]):
        if isinstance(finished, RaydistillError):
            raise finished
        yield finished


def together(
    requested: Sequence[tuple[Stage, Sequence[str]]],
) -> Iterator[tuple[Stage, tuple[Record, str] | RaydistillError]]:
    """`actors` for several stages that reserve the same: no actor waits while any of them has units left.

    A stage that fails yields its error and gives away no more units; the others go on.
    """
    units = list(_units(requested))
    team, waiting = Team(requested[0][0], len(units)), deque(units)
    failures: Counter[tuple[str, str]] = Counter()
    lost: set[str] = set()
    try:
        while waiting or team.running:
            while waiting and team.ready():
                team.give(waiting.popleft())
            team.fill(len(waiting))
            tell(Queued(team.name, len(waiting), len(team.running), team.workers))
            done = team.wait()
            for ref in [*done, *team.late(done)]:
                assigned = team.running.pop(ref)
                unit = assigned.unit
                try:
                    finished = _get(ref, assigned, done)
                except (RayError, TimeoutError) as e:
                    ray.kill(assigned.actor)
                    failures[unit.name, unit.key] += 1
                    if cause(e) is None and failures[unit.name, unit.key] < ATTEMPTS:
                        waiting.append(unit)
                        tell(Retried(team.name, unit.key, one_line(e)))
                    elif unit.name not in lost:
                        lost.add(unit.name)
                        waiting = deque(u for u in waiting if u.name != unit.name)
                        error = translate(e, unit.stage.name)
                        error.__cause__ = e
                        yield unit.stage, error
                else:
                    team.rest(assigned.actor)
                    yield unit.stage, finished
        team.keep_warm()
    finally:
        team.end()
        tell(Queued(team.name, 0, 0, 0))


def _units(requested: Sequence[tuple[Stage, Sequence[str]]]) -> Iterator[StageUnit]:
    for stage, todo in requested:
        work = ray.put(stage.work)
        # its name is not the fingerprint: the same stage of two run directories has two places to write to
        yield from (StageUnit(stage, work.hex(), work, key) for key in todo)


def _get(ref: Any, assigned: Assignment, done: Sequence[Any]) -> tuple[Record, str]:
    """Raises TimeoutError for a unit that is not done by its deadline, and what Ray raises."""
    if ref not in done:
        raise TimeoutError(f"{assigned.unit.key} is not done after {assigned.unit.stage.pool.deadline_s:g} s")
    return ray.get(ref)


def take(pool: Pool, reservation: Reservation, size: int) -> list[Any]:
    """The warm actors that reserve the same; of others, as many are ended as `size` of these need to be placed."""
    warm = _warm.pop(_shape(pool), [])
    make_room(reservation, max(size, len(warm)))
    return warm


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
            ray.kill(_warm[shape].pop())
        else:
            del _warm[shape]


def release() -> None:
    """Ends all actors that stages left warm: what is timed next starts its own."""
    if ray.is_initialized():
        for actor in [a for shape, idle in _warm.items() if shape[0] == _session() for a in idle]:
            ray.kill(actor)
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
