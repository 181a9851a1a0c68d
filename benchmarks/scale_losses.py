"""Workers killed at a fixed rate while they work through units of a fixed length, and what `plan` says of that.

Every actor of the pool is a spot machine of its own that is lost after an exponential time. Its units sleep, so that
the machine's other work counts little; what a new actor takes to come up is measured beforehand.
"""

from __future__ import annotations

import contextlib
import random
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil
import ray

from raydistill.config import Pool, RayConfig
from raydistill.distributed import dispatch, pool
from raydistill.distributed.runtime import ensure_ray
from raydistill.planning.losses import Crew, simulate
from raydistill.stages.runner import Stage
from raydistill.store.artifact import Record

SEEDS = 200
STARTS = 3


@dataclass(frozen=True)
class Asleep:
    """A unit that takes so many seconds."""

    seconds: float

    def load(self, item: Any) -> Any:
        return item

    def open(self) -> Callable[[Any], Record]:
        def finish(key: str) -> Record:
            time.sleep(self.seconds)
            return Record(key, "", 1, 0, "", "", "cpu")

        return finish


def workers() -> list[psutil.Process]:
    """The pool's processes, by the title that Ray gives to those that run a unit."""
    some = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            some += [process] if process.cmdline()[:1] == ["ray::Worker.run"] else []
    return some


@contextlib.contextmanager
def killing(losses_per_hour: float, seed: int) -> Iterator[list[float]]:
    """While entered, each worker is killed an exponential time after it is first seen to work. Yields when."""
    chance, over, killed = random.Random(seed), threading.Event(), []

    def kill() -> None:
        ends: dict[int, float] = {}
        while not over.wait(0.05):
            for process in workers():
                if process.pid not in ends:
                    ends[process.pid] = time.monotonic() + chance.expovariate(losses_per_hour / 3600)
                elif time.monotonic() > ends[process.pid]:
                    with contextlib.suppress(psutil.Error):
                        process.kill()
                        process.wait(5)
                        killed.append(time.monotonic())

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


def lossy(units: int, unit_s: float, actors: int, losses_per_hour: float, seed: int) -> dict[str, Any]:
    """The stage once with losses, and what `plan` expects of it: mean and the middle nine tenths over SEEDS."""
    section = Pool(actors=actors, num_cpus=1)
    ensure_ray(RayConfig(num_cpus=actors + 1))

    def stage(name: str, count: int) -> Stage:
        keys = [f"{name}-{i:04d}" for i in range(count)]
        return Stage(name, "units", None, keys, str, Asleep(unit_s), count, "actors", section)  # type: ignore[arg-type]

    back_s = statistics.median(_start(section) for _ in range(STARTS))
    quiet = stage("quiet", 4 * actors)
    list(dispatch.actors(quiet, quiet.keys[:actors]))  # all are up
    quiet_s = _seconds(quiet)
    each_s = quiet_s / 4
    lossy_stage = stage("lossy", units)
    with killing(losses_per_hour, seed) as killed:
        seconds = _seconds(lossy_stage)
    runs = [simulate(units, each_s, [Crew(actors, 1, True)], losses_per_hour, back_s, s) for s in range(SEEDS)]
    planned = np.array([r.seconds for r in runs])
    low, high = np.quantile(planned, [0.05, 0.95])
    return {
        "workers": actors, "units": units, "a unit, s": each_s, "a new worker, s": back_s,
        "losses an hour of a worker": losses_per_hour, "without losses, planned, s": units / actors * each_s,
        "lost, measured": len(killed), "lost, planned": float(np.mean([r.lost for r in runs])),
        "seconds, measured, s": seconds, "seconds, planned, s": float(planned.mean()),
        "planned, nine tenths from, s": float(low), "planned, to, s": float(high),
        "measured / planned": seconds / float(planned.mean()),
    }  # fmt: skip


def _seconds(stage: Stage) -> float:
    start = time.monotonic()
    done = [record.key for record, _ in dispatch.actors(stage, stage.keys)]
    assert sorted(done) == sorted(stage.keys), "nothing twice, nothing lost"
    return time.monotonic() - start


def _start(section: Pool) -> float:
    """Seconds until a new actor answers."""
    start, actor = time.monotonic(), pool.start(section)
    ray.get(actor.up.remote())
    ray.kill(actor)
    return time.monotonic() - start
