"""Executors on Ray: how the units of a stage are spread, retried and timed out.

Identity never depends on any of this. A worker that dies is replaced and its unit done again; a unit that keeps
killing workers, or that is not done by its deadline, ends the run with its name: nothing waits for ever.
"""

from __future__ import annotations

import pickle
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import ray
import ray.data
from ray.exceptions import RayError

from raydistill.config import RayConfig
from raydistill.distributed import pool
from raydistill.distributed.failures import translate
from raydistill.distributed.fan_out import over_tasks
from raydistill.distributed.node_log import node_id
from raydistill.distributed.pool import actors, make_room
from raydistill.distributed.resources import SCHEDULING, of_pool
from raydistill.distributed.runtime import cores, ensure_ray, may_grow, pool_size
from raydistill.errors import RaydistillError, StageFailed
from raydistill.stages import fan_out
from raydistill.stages.runner import Execute, Stage, Together, Work, serial
from raydistill.store.artifact import Record

Spread = Callable[[Stage, Sequence[str]], Iterator[tuple[Record, str]]]  # records with their nodes


def on_ray(config: RayConfig, keep: Callable[[Stage, Mapping[str, str]], None] | None = None) -> Execute:
    """An executor that starts Ray only when a stage has work for it; `keep` is told at its end which node did what."""

    def execute(stage: Stage, todo: Sequence[str]) -> Iterator[Record]:
        if stage.style == "driver":
            return serial(stage, todo)
        ensure_ray(config)
        spread: Spread = {"stream": stream, "tasks": tasks, "actors": actors}[stage.style]
        return kept(stage, spread(stage, todo))

    def kept(stage: Stage, placed: Iterator[tuple[Record, str]]) -> Iterator[Record]:
        nodes: dict[str, str] = {}
        try:
            for record, node in placed:
                nodes[record.key] = node
                yield record
        finally:
            if keep is not None:
                keep(stage, nodes)

    return execute


def together_on_ray(config: RayConfig, keep: Callable[[Stage, Mapping[str, str]], None]) -> Together:
    """Stages of pools that reserve the same, all at once; `keep` as in `on_ray`."""

    def execute(requested: Sequence[tuple[Stage, Sequence[str]]]) -> Iterator[tuple[Stage, Record | RaydistillError]]:
        if not requested:
            return
        ensure_ray(config)
        nodes: dict[int, dict[str, str]] = {id(stage): {} for stage, _ in requested}
        try:
            for stage, finished in pool.together(requested):
                if isinstance(finished, RaydistillError):
                    yield stage, finished
                    continue
                record, node = finished
                nodes[id(stage)][record.key] = node
                yield stage, record
        finally:
            for stage, _ in requested:
                keep(stage, nodes[id(stage)])

    return execute


def stream(stage: Stage, todo: Sequence[str]) -> Iterator[tuple[Record, str]]:
    """Ray Data: a row a unit, loaded in CPU tasks, streamed into a pool of actors that commit it.

    A row carries one pickled payload, so a unit is never split over blocks and at most a few are in flight.
    """
    section = stage.pool
    reservation = of_pool(stage.name, section)
    size = pool_size(reservation, section.threads, len(todo))
    make_room(reservation, size)
    grows = may_grow() and not reservation.workers  # Ray Data then starts actors on nodes that join, and ends them
    least, most = (1, len(todo)) if grows else (size, size)
    work = stage.work
    rows = [{"item": pickle.dumps(stage.items(key))} for key in todo]
    readers = len(todo) if grows else max(1, min(cores(), len(todo)))

    def load(row: dict[str, bytes]) -> dict[str, bytes]:
        return {"payload": pickle.dumps(work.load(pickle.loads(row["item"])), protocol=5)}

    data = (
        ray.data.from_items(rows, override_num_blocks=len(rows))
        .map(load, compute=ray.data.TaskPoolStrategy(size=readers), num_cpus=1)
        .map(
            StreamActor,
            fn_constructor_args=(work,),
            compute=ray.data.ActorPoolStrategy(min_size=least, max_size=most, initial_size=size),
            num_cpus=section.num_cpus,
            num_gpus=section.num_gpus or None,
        )
    )
    for row in _watched(data.iter_rows(), stage):
        yield pickle.loads(row["record"]), row["node"]


class StreamActor:
    """Loads the networks once; then one unit a call."""

    def __init__(self, work: Work) -> None:
        self.finish = work.open()

    def __call__(self, row: dict[str, bytes]) -> dict[str, Any]:
        return {"record": pickle.dumps(self.finish(pickle.loads(row["payload"]))), "node": node_id()}


def _watched(rows: Any, stage: Stage) -> Iterator[Any]:
    """Iterates in a thread, so that a pipeline that stops moving is noticed. Raises what the pipeline raised."""
    inbox: queue.Queue[tuple[str, Any]] = queue.Queue()

    def pump() -> None:
        try:
            for row in rows:
                inbox.put(("row", row))
            inbox.put(("end", None))
        except BaseException as e:  # handed to the thread that waits, whatever it is
            inbox.put(("error", e))

    threading.Thread(target=pump, daemon=True).start()
    while True:
        try:
            kind, value = inbox.get(timeout=stage.pool.deadline_s)
        except queue.Empty:
            raise StageFailed(
                f"{stage.name}: nothing finished for {stage.pool.deadline_s:g} s; the workers hang or none could be "
                f"placed (see `ray status`); run the same command again, or raise {stage.name}.deadline_s"
            ) from None
        if kind == "end":
            return
        if kind == "error":
            raise translate(value, stage.name) from value
        yield value


def tasks(stage: Stage, todo: Sequence[str]) -> Iterator[tuple[Record, str]]:
    """Plain Ray tasks, a bounded number in flight."""
    work = ray.put(stage.work)
    remote = _run_unit.options(num_cpus=stage.pool.num_cpus, max_retries=3, scheduling_strategy=SCHEDULING)
    waiting = deque(todo)
    running: dict[Any, str] = {}
    while waiting or running:
        while waiting and len(running) < 2 * cores():
            key = waiting.popleft()
            running[remote.remote(work, stage.items(key))] = key
        done, _ = ray.wait(list(running), num_returns=1, timeout=stage.pool.deadline_s)
        if not done:
            raise StageFailed(
                f"{stage.name}: {running[next(iter(running))]} is not done after {stage.pool.deadline_s:g} s; "
                "the cluster has no free CPU or a worker hangs (see `ray status`); run the same command again"
            )
        for ref in done:
            running.pop(ref)
            try:
                yield ray.get(ref)
            except RayError as e:
                raise translate(e, stage.name) from e


@ray.remote
def _run_unit(work: Work, item: Any) -> tuple[Record, str]:
    fan_out.use(over_tasks)
    return work.open()(work.load(item)), node_id()
