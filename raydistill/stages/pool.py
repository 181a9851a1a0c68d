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
from raydistill.stages.failures import cause, translate
from raydistill.stages.placement import here
from raydistill.stages.runner import Stage, Work
from raydistill.stages.runtime import pool_size
from raydistill.store.artifact import Record

ATTEMPTS = 3
_warm: dict[tuple[str, float, float], list[Any]] = {}  # idle actors by Ray session and what they reserve


class Worker:
    """An actor of the pool: loads once a stage, then one unit a call."""

    def __init__(self) -> None:
        self.stage = ""
        self.finish: Callable[[Any], Record] | None = None

    def run(self, stage: str, work: Work, item: Any) -> tuple[Record, str]:
        if self.finish is None or stage != self.stage:
            self.stage, self.finish = stage, work.open()
        return self.finish(work.load(item)), here()


@dataclass
class Job:
    key: str
    actor: Any
    started: float


def actors(stage: Stage, todo: Sequence[str]) -> Iterator[tuple[Record, str]]:
    """Gives units to actors as they come free; yields records with their nodes.

    A dead or late actor is replaced, its unit given away, ATTEMPTS times.
    """
    pool = stage.pool
    work = ray.put(stage.work)
    name = work.hex()  # not the fingerprint: the same stage of two run directories has two places to write to
    idle = take(pool, pool_size(pool.actors, pool.num_cpus, pool.num_gpus, pool.threads, len(todo)))
    waiting, failures = deque(todo), dict.fromkeys(todo, 0)
    running: dict[Any, Job] = {}
    try:
        while waiting or running:
            while waiting and idle:
                actor, key = idle.pop(), waiting.popleft()
                running[actor.run.remote(name, work, stage.items(key))] = Job(key, actor, time.monotonic())
            done, _ = ray.wait(list(running), num_returns=1, timeout=min(5.0, pool.deadline_s))
            now = time.monotonic()
            late = [ref for ref, job in running.items() if ref not in done and now - job.started > pool.deadline_s]
            for ref in [*done, *late]:
                job = running.pop(ref)
                try:
                    if ref in late:
                        raise TimeoutError(f"{job.key} is not done after {pool.deadline_s:g} s")
                    done_by = ray.get(ref)
                except (RayError, TimeoutError) as e:
                    ray.kill(job.actor)
                    failures[job.key] += 1
                    if cause(e) is not None or failures[job.key] >= ATTEMPTS:
                        raise translate(e, stage.name) from e
                    waiting.append(job.key)
                    idle.append(start(pool))
                else:
                    idle.append(job.actor)
                    yield done_by
        _warm.setdefault(_shape(pool), []).extend(idle)
        idle = []
    finally:
        for actor in [*idle, *(job.actor for job in running.values())]:
            ray.kill(actor)


def take(pool: Pool, size: int) -> list[Any]:
    """`size` actors, warm ones first."""
    warm = _warm.pop(_shape(pool), [])
    release()
    for actor in warm[size:]:
        ray.kill(actor)
    return warm[:size] + [start(pool) for _ in range(size - len(warm))]


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
