"""Executors on Ray: how the units of a stage are spread, retried and timed out.

Identity never depends on any of this. A worker that dies is replaced and its unit done again; a unit that keeps
killing workers, or that is not done by its deadline, ends the run with its name: nothing waits for ever.
"""

from __future__ import annotations

import contextlib
import faulthandler
import pickle
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import ray
import ray.data
from ray.exceptions import RayError, RayTaskError

from raydistill.config import RayConfig
from raydistill.distributed import dispatch
from raydistill.distributed.attempts import ATTEMPTS, SHOWN, Attempts
from raydistill.distributed.failures import cause, translate
from raydistill.distributed.fan_out import over_tasks
from raydistill.distributed.node_log import node_id
from raydistill.distributed.pool import make_room
from raydistill.distributed.resources import SCHEDULING, of_pool, section_of
from raydistill.distributed.runtime import cores, ensure_ray, in_flight, may_grow, pool_size, room, shares
from raydistill.errors import RaydistillError, StageFailed, first_of
from raydistill.progress import Retried, say, tell
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
        actors: Spread = partial(dispatch.actors, recompute=config.recompute)
        spread = {"stream": stream, "tasks": tasks, "actors": actors}[stage.style]
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
            for stage, finished in dispatch.together(requested, config.recompute):
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
    # Ray Data then starts actors on nodes that join, and ends them, up to all that the cluster has.
    grows = may_grow() and not reservation.workers and not shares()
    least, most = (1, len(todo)) if grows else (size, size)
    work = stage.work
    rows = [{"item": pickle.dumps(stage.items(key))} for key in todo]
    readers = len(todo) if grows else max(1, min(cores(), len(todo)))
    if shares():
        readers = min(readers, room().readers(size, section.num_cpus))

    def load(row: dict[str, bytes]) -> dict[str, bytes]:
        return {"item": pickle.dumps(work.load(pickle.loads(row["item"])), protocol=5)}

    data = ray.data.from_items(rows, override_num_blocks=len(rows))
    if readers:
        data = data.map(load, compute=ray.data.TaskPoolStrategy(size=readers), num_cpus=1)
    data = data.map(
        StreamActor,
        fn_constructor_args=(work if readers else Unread(work), section.deadline_s),
        compute=ray.data.ActorPoolStrategy(min_size=least, max_size=most, initial_size=size),
        num_cpus=section.num_cpus,
        num_gpus=section.num_gpus or None,
    )
    left = list(todo)
    for row in _watched(data.iter_rows(), stage, left):
        record = pickle.loads(row["record"])
        left.remove(record.key)
        yield record, row["node"]


@dataclass(frozen=True)
class Unread:
    """Work whose items nobody has loaded, since the job's share has no CPU for readers."""

    work: Work

    def load(self, item: Any) -> Any:
        return item

    def open(self) -> Callable[[Any], Record]:
        finish = self.work.open()
        return lambda item: finish(self.work.load(item))


class StreamActor:
    """Loads the networks once; then one unit a call, or it ends itself: Ray Data then tries the unit elsewhere."""

    def __init__(self, work: Work, deadline_s: float) -> None:
        self.deadline_s = deadline_s
        with self._or_end():
            self.finish = work.open()

    def __call__(self, row: dict[str, bytes]) -> dict[str, Any]:
        with self._or_end():
            return {"record": pickle.dumps(self.finish(pickle.loads(row["item"]))), "node": node_id()}

    @contextlib.contextmanager
    def _or_end(self) -> Iterator[None]:
        """Ends the process after the deadline, also from within native code that lets no other thread run."""
        faulthandler.dump_traceback_later(self.deadline_s, exit=True, file=2)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()


def _watched(rows: Any, stage: Stage, left: Sequence[str]) -> Iterator[Any]:
    """Iterates in a thread, so that a pipeline that stops moving is noticed. Raises what the pipeline raised.

    An actor that hangs ends itself at the deadline, so that every unit has its ATTEMPTS before this gives up. Nobody
    who waits any more ends the pipeline with its next row: Ray Data does so once its rows are let go.
    """
    inbox: queue.Queue[tuple[str, Any]] = queue.Queue()
    left_alone = threading.Event()
    patience_s = (ATTEMPTS + 0.5) * stage.pool.deadline_s

    def pump() -> None:
        try:
            for row in rows:
                if left_alone.is_set():
                    return
                inbox.put(("row", row))
            inbox.put(("end", None))
        except BaseException as e:  # handed to the thread that waits, whatever it is
            inbox.put(("error", e))

    threading.Thread(target=pump, daemon=True).start()
    try:
        while True:
            try:
                kind, value = inbox.get(timeout=patience_s)
            except queue.Empty:
                raise _stuck(stage, left, patience_s) from None
            if kind == "end":
                return
            if kind == "error":
                raise translate(value, stage.name) from value
            yield value
    finally:
        left_alone.set()


def _stuck(stage: Stage, left: Sequence[str], patience_s: float) -> StageFailed:
    keys = f"{first_of(left, SHOWN)} {'is' if len(left) == 1 else 'are'}"
    return StageFailed(
        f"{stage.name}: nothing finished for {patience_s:g} s; {keys} not done; the workers hang or "
        "none could be placed (see `ray status`); run the same command again, or raise "
        f"{section_of(stage.name)}.deadline_s"
    )


def tasks(stage: Stage, todo: Sequence[str]) -> Iterator[tuple[Record, str]]:
    """Plain Ray tasks, a bounded number in flight; what hangs, or is a straggler, is tried once more elsewhere."""
    make_room(replace(of_pool(stage.name, stage.pool), spare=0), 1)
    flight, attempts = Flight(stage, len(todo)), Attempts(stage.name, len(todo))
    try:
        yield from _landed(flight, attempts, deque(todo))
    finally:
        flight.call_off()
    if attempts.given_up():
        raise attempts.error()


def _landed(flight: Flight, attempts: Attempts, waiting: deque[str]) -> Iterator[tuple[Record, str]]:
    """What the tasks of a stage have finished, as it comes."""
    stage, moved = flight.stage, time.monotonic()
    while waiting or flight.running:
        free = flight.free()
        while waiting and free > 0:
            flight.send(waiting.popleft(), SCHEDULING)
            free -= 1
        slow = [] if waiting else flight.stragglers(attempts)
        for key in slow[: max(0, free)] if shares() else slow:
            say(stage.name, f"{key} is slow: it is tried on another worker too")
            tell(Retried(stage.name, key, "it is slow"))
            flight.send(key, "SPREAD")
        done, _ = ray.wait(list(flight.running), num_returns=1, timeout=min(5.0, stage.pool.deadline_s))
        if done:
            moved = time.monotonic()
        elif time.monotonic() - moved > stage.pool.deadline_s:
            waiting.extend(flight.recall(attempts))
            moved = time.monotonic()
        for ref in done:
            if ref not in flight.running:
                continue  # another try at its unit came first
            key = flight.running[ref][0]
            try:
                finished = ray.get(ref)
            except RayError as e:
                del flight.running[ref]
                if cause(e) is not None:
                    raise translate(e, stage.name) from e
                if flight.failed(key, e, attempts):
                    waiting.append(key)
                if attempts.over():
                    raise attempts.error() from e
            else:
                attempts.done(key, flight.settle(ref))
                yield finished


class Flight:
    """The tasks of a stage that have been sent: reference -> key and when.

    `helpers`: how many tasks each of them may have out in its turn, where something is left to other jobs.
    """

    def __init__(self, stage: Stage, units: int) -> None:
        self.stage, self.work = stage, ray.put(stage.work)
        self.running: dict[Any, tuple[str, float]] = {}
        self.helpers = room().helpers(stage.pool.num_cpus, units) if shares() else None

    def free(self) -> int:
        """How many more may be sent now."""
        at_once = in_flight(self.stage.pool.num_cpus)
        return max(1, at_once // (1 + (self.helpers or 0))) - len(self.running)

    def send(self, key: str, scheduling: str) -> None:
        remote = _run_unit.options(
            num_cpus=self.stage.pool.num_cpus, max_retries=ATTEMPTS - 1, scheduling_strategy=scheduling
        )
        ref = remote.remote(self.work, self.stage.items(key), self.helpers)
        self.running[ref] = key, time.monotonic()

    def out(self, key: str) -> list[Any]:
        """The tries at a unit."""
        return [ref for ref, (other, _) in self.running.items() if other == key]

    def stragglers(self, attempts: Attempts) -> list[str]:
        """Those that are out once, for much longer than others were."""
        now = time.monotonic()
        slow = [key for key, sent in self.running.values() if attempts.slow(now - sent)]
        return [key for key in slow if len(self.out(key)) == 1]

    def settle(self, ref: Any) -> float:
        """One is done: other tries at its unit are called off. Returns the seconds that it was out."""
        key, sent = self.running.pop(ref)
        for other in self.out(key):
            self._cancel(other)
        return time.monotonic() - sent

    def recall(self, attempts: Attempts) -> list[str]:
        """Nothing moves: all are called off. Returns the keys that are to be sent again."""
        keys = sorted({key for key, _ in self.running.values()})
        self.call_off()
        for key in keys:
            why = f"is not done after {self.stage.pool.deadline_s:g} s (no CPU is free, or it hangs; see `ray status`)"
            attempts.fail(key, "", TimeoutError(why))
        return [key for key in keys if attempts.again(key)]

    def failed(self, key: str, e: RayError, attempts: Attempts) -> bool:
        """Notes a try that failed; whether the unit is to be sent again. A worker that dies Ray replaces itself."""
        if isinstance(e, RayTaskError):
            attempts.fail(key, "", e)
        elif not self.out(key):
            attempts.give_up(key, e)  # Ray has tried it so often
        return attempts.again(key) and not self.out(key)

    def call_off(self) -> None:
        for ref in list(self.running):
            self._cancel(ref)

    def _cancel(self, ref: Any) -> None:
        del self.running[ref]
        ray.cancel(ref, force=True)


@ray.remote
def _run_unit(work: Work, item: Any, helpers: int | None) -> tuple[Record, str]:
    """`helpers`: None = as many as the cluster has room for."""
    fan_out.use(fan_out.one_by_one if helpers == 0 else partial(over_tasks, helpers=helpers or 0))
    return work.open()(work.load(item)), node_id()
