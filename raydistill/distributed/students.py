"""evaluate: one Ray Train fit takes a list of trainings (sets x students x seeds); committed ones never enter it."""

from __future__ import annotations

import contextlib
import pickle
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from raydistill.config import Config, RayConfig
from raydistill.distributed import node_log
from raydistill.distributed.attempts import ATTEMPTS
from raydistill.distributed.failures import translate
from raydistill.distributed.resources import of_students
from raydistill.distributed.student_watch import Watch
from raydistill.errors import StageFailed
from raydistill.identity import fingerprint
from raydistill.models.device import device_kind, on_cuda
from raydistill.progress import Progress, say
from raydistill.sources.base import Listing
from raydistill.stages.evaluation.checkpoint import Checkpoint
from raydistill.stages.evaluation.image_sets import SetRef
from raydistill.stages.evaluation.trainer import KEY, Job, Rung, StudentTrainer, Teaching, Training
from raydistill.stages.evaluation.trainings import everything, unfinished
from raydistill.store.rundir import RunDir

if TYPE_CHECKING:
    from raydistill.distributed.fits import Unplaced

PROBE_S = 2.0
PLACED_S = 30.0  # longest wait for the places of all workers: then those that are there go on, and more when more come


def train_loop(payload: dict[str, bytes]) -> None:
    """What each Ray Train worker runs: its share of the list. Restarted workers find finished trainings committed."""
    import ray.train

    job: Job = pickle.loads(payload["job"])
    torch.set_num_threads(job.evaluate.threads)
    context = ray.train.get_context()
    cuda = on_cuda(job.evaluate.device, job.evaluate.num_gpus)
    device = torch.device("cuda" if cuda else "cpu")
    trainer = StudentTrainer(job, device, device_kind(cuda), context.get_local_world_size())
    for t in job.trainings[context.get_world_rank() :: context.get_world_size()]:
        if job.recalled():
            return  # what is left is for the next fit, which has more workers
        trainer.run(t)
        node_log.keep(job.logs, job.output(t), {KEY: node_log.node_id()})


def fit(job: Job, run: RunDir, config: RayConfig, prove: Callable[[], None], progress: Progress) -> None:
    """Ray Train over the trainings that are left. Raises StageFailed with what went wrong.

    One fit, or, on a cluster that was joined, several. When it has grown, workers end what they are at, and the next
    fit has as many as there is room for; when it has lost what they were placed on, the next one has fewer; when its
    machines are lost again and again, another goes on as long as something is kept in between.
    """
    from raydistill.distributed.runtime import ensure_ray

    ensure_ray(config)
    prove()
    watch = Watch(job, progress)
    while watch.open:
        recall = run.root / "checkpoints" / f"{_name(job, watch.open)}.recall"
        watch.begin(replace(job, trainings=tuple(watch.open), recall=recall))
        unplaced = _fit(watch.job, run, watch)
        if not unplaced and not watch.recalled and not watch.lost:
            return
        watch.resize(unplaced)
        prove()


def _name(job: Job, trainings: Sequence[Training]) -> str:
    return "evaluate-" + fingerprint([job.output(t).fingerprint for t in trainings])


def _fit(job: Job, run: RunDir, watch: Watch) -> Unplaced | None:
    """Whether its workers found no place, or lost theirs and found no other."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from raydistill.distributed import fits
    from raydistill.distributed.pool import make_room
    from raydistill.distributed.process_group import NoGroup

    e = job.evaluate
    make_room(of_students(e), watch.workers)
    resources = {"CPU": e.num_cpus} | ({"GPU": e.num_gpus} if e.num_gpus else {})
    trainer = TorchTrainer(
        train_loop,
        train_loop_config={"job": pickle.dumps(job)},
        torch_config=NoGroup(),  # workers share no gradient; NCCL would refuse two on one GPU
        scaling_config=ScalingConfig(num_workers=watch.workers, use_gpu=e.num_gpus > 0, resources_per_worker=resources),
        run_config=RunConfig(
            name=_name(job, job.trainings),
            storage_path=str(run.root / "checkpoints"),
            failure_config=FailureConfig(max_failures=ATTEMPTS, controller_failure_limit=0),
        ),
    )
    with contextlib.suppress(OSError, StageFailed):  # of a run that was killed
        job.unrecall()
    try:
        fits.fit(trainer, watch.probe, PROBE_S, PLACED_S)
    except fits.Unplaced as unplaced:
        return unplaced
    except StageFailed:
        raise
    except Exception as error:  # Ray Train wraps whatever a worker raised
        if watch.outlives(error):
            return None
        raise translate(error, "evaluate") from error
    finally:
        with contextlib.suppress(OSError, StageFailed):
            job.unrecall()
    return None


def evaluate(
    config: Config,
    run: RunDir,
    sets: Sequence[SetRef],
    train: Listing,
    test: Listing,
    prove: Callable[[], None] = lambda: None,
    teaching: Teaching | None = None,
) -> tuple[list[Training], float]:
    """Brings every training to its manifest. Returns all trainings, and the seconds spent on those that were left.

    `prove` is called with Ray up and before the fit: it raises if a node does not see what it needs.
    """
    every = everything(config, run, sets, test, teaching, train)
    return every, train_missing(config, run, every, train, test, prove, teaching)


def train_missing(
    config: Config,
    run: RunDir,
    every: Sequence[Training],
    train: Listing,
    test: Listing,
    prove: Callable[[], None],
    teaching: Teaching | None = None,
    name: str = "evaluate",
) -> float:
    """Brings these trainings to their manifests, and their weights to theirs if they are kept. Returns the seconds.

    They are shown as the stage `name`.
    """
    checkpoints = run.root / "checkpoints"
    left = unfinished(config, run, every)
    if len(left) < len(every):
        say(name, f"{len(every) - len(left)} of {len(every)} trainings found finished")
    start, networks = time.monotonic(), [t.checkpoint(checkpoints) for t in every if config.evaluate.keep_weights]
    todo = [t for t in left if KEY not in t.artifact.records() or lacks(config, t.checkpoint(checkpoints))]
    if todo:
        logs = run.root / "logs"
        job = Job(tuple(todo), config.source, train, test, config.evaluate, logs, checkpoints, teaching)
        with Progress(name, "trainings", len(todo)) as progress:
            fit(job, run, config.ray, prove, progress)
            progress.advance(len(todo) - progress.done)  # those that were not seen to finish
    elif left:
        say(name, f"{len(left)} trainings were finished before; their manifests are written again")
    for network in networks:
        network.seal()
    manifests = [t.artifact.seal([KEY]) for t in left]
    for t, network in zip(every, networks, strict=False):
        say(name, f"{t.label} is kept: {network.path}")
    left_out = sorted({b for m in manifests for b in m.records[0].meta.get("left_out", [])})
    if left_out:
        say(name, f"{len(left_out)} broken images were left out (first: {left_out[0]}); see logs/quarantine.tsv")
    return time.monotonic() - start if todo else 0.0


def train_to(
    config: Config,
    run: RunDir,
    every: Sequence[Training],
    rung: Rung,
    train: Listing,
    test: Listing,
    prove: Callable[[], None],
    teaching: Teaching | None = None,
) -> bool:
    """Brings these trainings to a rung, in one fit; those that are finished are above it. Whether any was below."""
    left = [t for t in every if rung.of(t).manifest() is None and t.artifact.manifest() is None]
    todo = [t for t in left if KEY not in rung.of(t).records()]
    if todo:
        root = run.root
        job = Job(
            tuple(todo),
            config.source,
            train,
            test,
            config.evaluate,
            root / "logs",
            root / "checkpoints",
            teaching,
            rung,
        )
        with Progress(f"to test {rung.tests}", "trainings", len(todo)) as progress:
            fit(job, run, config.ray, prove, progress)
            progress.advance(len(todo) - progress.done)
    for t in left:
        rung.of(t).seal([KEY])
    return bool(todo)


def lacks(config: Config, network: Checkpoint) -> bool:
    """Whether a network that is to be kept has not been committed."""
    return config.evaluate.keep_weights and not network.there()
