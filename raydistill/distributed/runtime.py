"""Ray's own life: started only when a stage has work, quietly, on a laptop or on the cluster the job runs on."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray

import raydistill
from raydistill import signals
from raydistill.config import RayConfig
from raydistill.distributed import ending, joined, private
from raydistill.distributed.nodes import joins
from raydistill.distributed.resources import Reservation, Room, local_room
from raydistill.errors import BadInput, StageFailed, one_line
from raydistill.progress import say

WORKER_ENV = {
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "passive",
    "HF_HUB_OFFLINE": "1",
    "PYTHONHASHSEED": "0",
    # glibc gives large tensors back to the system after each step and faults them in again; keeping them makes student
    # training on the CPU 1.6 times as fast (3.7 against 6.0 ms an image, ConvNet-4 at 64 px). One arena: Ray Train runs
    # its loop in a thread of its own, whose arena would hold at most 64 MiB and map every larger tensor anew.
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
    "MALLOC_TOP_PAD_": "268435456",
}


STARTS = 3  # a loaded machine may need more than one try
_local = True  # whether this process started the cluster it uses
_share = 1.0  # of the cluster's CPUs and GPUs, what this job's workers take at most


def ensure_ray(config: RayConfig) -> None:
    """Joins `ray.address` or RAY_ADDRESS, otherwise starts a private local cluster. Does nothing if Ray is up.

    A local cluster gets at least four logical CPUs: they are bookkeeping, and with two an actor pool can leave none
    for reading, which hangs without a word. It is private to this process (`distributed/private.py`).

    Raises BadInput for a cluster that cannot be joined (`distributed/joined.py`).
    """
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")  # the first error is raised and told; the rest is noise
    warnings.filterwarnings("ignore", module=r"ray\..*")
    global _local, _share
    address = joins(config)
    _local, _share = not address, config.share if address else 1.0
    head = None
    if address:
        say("ray", f"joining the cluster at {address}")
        with _without_native_chatter():
            head = joined.check(address)
    for attempt in range(1, STARTS + 1):
        try:
            with _without_native_chatter(), signals.guarded():
                _start(head, config)
            break
        except BadInput:
            raise
        except Exception as e:  # a node that does not come up in Ray's fixed 30 seconds is a bare Exception
            ending.shutdown()
            if address or attempt == STARTS:
                where = f"the cluster at {address}" if address else "a local cluster"
                raise StageFailed(
                    f"ray: cannot join or start {where}: {one_line(e)}; run the same command again when the "
                    "machine is less busy"
                ) from e
            say("ray", f"the local cluster did not come up ({one_line(e)}); trying again")
    _quiet_data()


def _import_path() -> str:
    """Lets workers import this package when it runs from a checkout that is not installed, from any folder."""
    root = str(Path(raydistill.__file__).resolve().parent.parent)
    return os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])


def _start(head: str | None, config: RayConfig) -> None:
    ours = {k: v for k, v in os.environ.items() if k.startswith("RAYDISTILL_")}
    env = {**WORKER_ENV, **ours, "PYTHONPATH": _import_path()}
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if head:  # workers are told, since what looks for a cluster on their machine may find another
        ray.init(address=head, runtime_env={"env_vars": env | {"RAY_ADDRESS": head}}, **quiet)
        return
    room = local_room(config)
    sizes = {
        "num_cpus": int(room.cpus),
        "num_gpus": int(room.gpus),
        "object_store_memory": config.object_store_mb * 2**20,
    }
    private.start(**sizes, runtime_env={"env_vars": env | private.workers_environment()}, **quiet)


@contextlib.contextmanager
def _without_native_chatter() -> Iterator[None]:
    """Points file descriptor 2 away while Ray's native code starts: it announces its log level there, unasked.

    What goes wrong still comes as an exception.
    """
    sys.stderr.flush()
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    signals.point_stderr(nothing)
    try:
        yield
    finally:
        sys.stderr.flush()
        signals.point_stderr(kept)
        os.close(kept)
        os.close(nothing)


def _quiet_data() -> None:
    """Keeps Ray Data's own bars and logs out of the way: our progress lines replace them."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what it would log as an error, it raises as well
    logging.getLogger("ray.train").setLevel(logging.ERROR)


def cores() -> int:
    """CPUs that really compute, of which this job has its share: of the machine for a local cluster, of all nodes
    otherwise."""
    total = int(ray.cluster_resources().get("CPU", 1))
    nodes = [n for n in ray.nodes() if n["Alive"]]
    computing = min(total, os.cpu_count() or 1) if len(nodes) == 1 else total
    return max(1, int(computing * _share))


def room() -> Room:
    """What the cluster holds now for this job: its share."""
    have = ray.cluster_resources()
    return Room(_share * have.get("CPU", 0.0), _share * have.get("GPU", 0.0), shares())


def shares() -> bool:
    """Whether something of the cluster is to be left to other jobs."""
    return _share < 1


def in_flight(num_cpus: float) -> int:
    """How many tasks are sent at once: what is not to be left to others has a second one waiting for each place."""
    return max(1, int(min(room().tasks(num_cpus), cores()))) if shares() else 2 * cores()


def may_grow() -> bool:
    """Whether the cluster was there before this process, and may grow and shrink."""
    return not _local


def pool_size(reservation: Reservation, threads: int, units: int) -> int:
    """How many workers to start: as asked, or as many as the cluster holds now, always leaving a CPU for other work.

    On a private local cluster, raises BadInput if what was asked for can never be placed, which Ray would wait for
    without a word. A cluster that was joined may grow: there it says what it waits for, and the deadline ends the wait.
    A job's share holds for numbers that were asked for, too; one worker it starts even if that is more.
    """
    wanted = min(reservation.workers, units)
    spare = 0 if shares() and wanted <= 1 else reservation.spare
    lack = replace(reservation, workers=wanted, spare=spare).lack(room(), _local)
    if lack and _local:
        raise BadInput(lack)
    size = fitting(reservation, threads, units)
    if lack:
        say("ray", f"{lack}: " + (f"{size} is what it takes" if shares() else "waiting for the cluster to grow"))
    return size


def fitting(reservation: Reservation, threads: int, units: int) -> int:
    """`pool_size` asked again, without a word: on a cluster that was joined the answer changes."""
    if reservation.workers and not shares():
        return max(1, min(reservation.workers, units))
    return max(1, placeable(reservation, threads, units))


def placeable(reservation: Reservation, threads: int, units: int) -> int:
    """How many workers there is room for now; of a number that was asked for at most so many."""
    computing = math.inf if reservation.num_gpus else cores() // threads
    return int(min(reservation.fits(room()), reservation.workers or computing, units))
