"""Ray's own life: started only when a stage has work, quietly, on a laptop or on the cluster the job runs on."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator

import ray

from raydistill.config import RayConfig
from raydistill.errors import BadInput, one_line

WORKER_ENV = {
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "passive",
    "HF_HUB_OFFLINE": "1",
    "PYTHONHASHSEED": "0",
    # glibc gives large tensors back to the system after each step and faults them in again; keeping them made student
    # training on the CPU 1.6 times as fast (3.7 against 5.9 ms an image, ConvNet-4 at 64 px).
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
    "MALLOC_TOP_PAD_": "268435456",
}


def ensure_ray(config: RayConfig) -> None:
    """Joins `ray.address` or RAY_ADDRESS, otherwise starts a private local cluster. Does nothing if Ray is up.

    A local cluster gets at least four logical CPUs: they are bookkeeping, and with two an actor pool can leave none
    for reading, which hangs without a word. It is private to this process, so token authentication is left off.
    """
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "300")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")  # the first error is raised and told; the rest is noise
    warnings.filterwarnings("ignore", module=r"ray\..*")
    address = config.address or os.environ.get("RAY_ADDRESS")
    env = {"env_vars": {**WORKER_ENV, **{k: v for k, v in os.environ.items() if k.startswith("RAYDISTILL_")}}}
    try:
        with _without_native_chatter():
            if address:
                ray.init(address=address, runtime_env=env, logging_level=logging.ERROR, log_to_driver=False)
            else:
                os.environ.setdefault("RAY_AUTH_MODE", "disabled")
                ray.init(
                    num_cpus=config.num_cpus or max(4, os.cpu_count() or 1),
                    include_dashboard=False,
                    runtime_env=env,
                    object_store_memory=config.object_store_mb * 2**20,
                    logging_level=logging.ERROR,
                    log_to_driver=False,
                )
    except (ConnectionError, RuntimeError, ValueError) as e:
        where = f"the cluster at {address}" if address else "a local cluster"
        raise BadInput(f"ray: cannot reach or start {where}: {one_line(e)}; check ray.address and RAY_AUTH_MODE") from e
    _quiet_data()


@contextlib.contextmanager
def _without_native_chatter() -> Iterator[None]:
    """Points file descriptor 2 away while Ray's native code starts: it announces its log level there, unasked.

    What goes wrong still comes as an exception.
    """
    sys.stderr.flush()
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def _quiet_data() -> None:
    """Keeps Ray Data's own bars and logs out of the way: our progress lines replace them."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    logging.getLogger("ray.train").setLevel(logging.ERROR)


def cores() -> int:
    """CPUs that really compute: of the machine for a local cluster, of all nodes otherwise."""
    total = int(ray.cluster_resources().get("CPU", 1))
    nodes = [n for n in ray.nodes() if n["Alive"]]
    return max(1, min(total, os.cpu_count() or 1) if len(nodes) == 1 else total)


def pool_size(actors: int, num_cpus: float, num_gpus: float, threads: int, units: int) -> int:
    """How many actors to start: as asked, or as many as the cluster holds, always leaving a CPU for other work.

    Raises BadInput if what was asked for can never be placed, which Ray would wait for without a word.
    """
    have = ray.cluster_resources()
    cpus, gpus = have.get("CPU", 0.0), have.get("GPU", 0.0)
    if num_gpus and gpus == 0 and not _autoscaling():
        raise BadInput(f"num_gpus={num_gpus} was asked for but the cluster has no GPU; set num_gpus=0 to use CPUs")
    fits = [int(gpus / num_gpus)] if num_gpus else [cores() // threads]
    if num_cpus:
        fits.append(int((cpus - 1) / num_cpus))
    if actors:
        if num_cpus and actors * num_cpus > cpus - 1 and not _autoscaling():
            raise BadInput(
                f"{actors} actors x {num_cpus} CPUs leave none of the cluster's {cpus:g} CPUs for other tasks; "
                "lower actors or num_cpus"
            )
        return max(1, min(actors, units))
    return max(1, min(*fits, units) if fits else units)


def _autoscaling() -> bool:
    return os.environ.get("RAYDISTILL_AUTOSCALING") == "1"
