"""The pool of sampler actors: ours, because Ray Data's can stick at one replica or hang on a dead actor without a word.

Actors stay warm between stages, so several methods or trials in one run pay for processes and imports once; `release`
gives their CPUs and GPUs back before anything else needs them.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError

from raydistill.config import Pool
from raydistill.distributed.failures import cause, translate
from raydistill.distributed.node_log import here
from raydistill.distributed.resources import of_pool
from raydistill.distributed.runtime import pool_size
from raydistill.errors import StageFailed
from raydistill.stages.runner import Stage, Work
from raydistill.store.artifact import Record

ATTEMPTS = 3
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
        return self.finish(work.load(item)), here()


@dataclass
class Job:
    key: str
    actor: Any
    started: float


class Team:
    """The actors of one stage: starting, idle or running. One that is not up holds nothing back."""

    def __init__(self, stage: Stage, size: int) -> None:
        self.name, self.pool, self.size = stage.name, stage.pool, size
        self.idle = take(stage.pool, size)
        self.starting: dict[Any, Any] = {}  # what an actor answers when it is up -> the actor
        self.running: dict[Any, Job] = {}
        self.lost, self.moved = 0, time.monotonic()

    def fill(self, waiting: int) -> None:
        """Starts what is missing to `size`, but not more than there are units waiting."""
        lacking = min(self.size - len(self.running), waiting) - len(self.idle) - len(self.starting)
        for _ in range(lacking):
            actor = start(self.pool)
            self.starting[actor.up.remote()] = actor

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

    def _admit(self, ref: Any) -> None:
        actor = self.starting.pop(ref)
        try:
            ray.get(ref)
        except RayError as e:  # its node went, or it cannot start
            self.lost += 1
            if self.lost >= ATTEMPTS * self.size:
                raise translate(e, self.name) from e
        else:
            self.idle.append(actor)

    def keep_warm(self) -> None:
        """Leaves the idle ones to the next stage."""
        _warm.setdefault(_shape(self.pool), []).extend(self.idle)
        self.idle = []

    def end(self) -> None:
        for actor in [*self.idle, *self.starting.values(), *(job.actor for job in self.running.values())]:
            ray.kill(actor)


def actors(stage: Stage, todo: Sequence[str]) -> Iterator[tuple[Record, str]]:
    """Gives units to actors as they come free; yields records with their nodes.

    A dead or late actor is replaced, its unit given away, ATTEMPTS times.
    """
    pool = stage.pool
    work = ray.put(stage.work)
    name = work.hex()  # not the fingerprint: the same stage of two run directories has two places to write to
    team = Team(stage, pool_size(of_pool(stage.name, pool), pool.threads, len(todo)))
    waiting, failures = deque(todo), dict.fromkeys(todo, 0)
    try:
        while waiting or team.running:
            while waiting and team.idle:
                actor, key = team.idle.pop(), waiting.popleft()
                team.running[actor.run.remote(name, work, stage.items(key))] = Job(key, actor, time.monotonic())
            team.fill(len(waiting))
            done = team.wait()
            now = time.monotonic()
            late = [r for r, job in team.running.items() if r not in done and now - job.started > pool.deadline_s]
            for ref in [*done, *late]:
                job = team.running.pop(ref)
                try:
                    if ref in late:
                        raise TimeoutError(f"{job.key} is not done after {pool.deadline_s:g} s")
                    finished = ray.get(ref)
                except (RayError, TimeoutError) as e:
                    ray.kill(job.actor)
                    failures[job.key] += 1
                    if cause(e) is not None or failures[job.key] >= ATTEMPTS:
                        raise translate(e, stage.name) from e
                    waiting.append(job.key)
                else:
                    team.idle.append(job.actor)
                    yield finished
        team.keep_warm()
    finally:
        team.end()


def take(pool: Pool, size: int) -> list[Any]:
    """The warm actors, at most `size`; others, which would hold what new ones need, are ended."""
    warm = _warm.pop(_shape(pool), [])
    release()
    for actor in warm[size:]:
        ray.kill(actor)
    return warm[:size]


def _session() -> str:
    return ray.get_runtime_context().get_node_id()


def _shape(pool: Pool) -> tuple[str, float, float]:
    return _session(), pool.num_cpus, pool.num_gpus


def start(pool: Pool) -> Any:
    return ray.remote(Worker).options(num_cpus=pool.num_cpus, num_gpus=pool.num_gpus).remote()


def release() -> None:
    """Ends all warm actors: a GPU that they hold would never be free for others."""
    for (session, *_), warm in _warm.items():
        for actor in warm if session == _session() else ():
            ray.kill(actor)
    _warm.clear()
