"""evaluate: one Ray Train fit takes a list of trainings (sets x students x seeds); committed ones never enter it."""

from __future__ import annotations

import contextlib
import pickle
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from raydistill import registry
from raydistill.config import Config, RayConfig
from raydistill.errors import StageFailed
from raydistill.evaluation.recipe import Recipe, Setting, resolve
from raydistill.identity import fingerprint
from raydistill.sources.base import Listing
from raydistill.stages.imagesets import SetRef
from raydistill.stages.progress import Progress, say
from raydistill.stages.resources import of_students
from raydistill.stages.trainer import KEY, Job, Teaching, Training, train_loop
from raydistill.store.rundir import RunDir

VERSION = 2
LOOK_S = 2.0


def recipe(config: Config, classes: int, student: str, parts: int = 1) -> Recipe:
    """What the configuration prescribes for one student on the distilled set and its equals, or on one of its parts."""
    p = config.evaluate.protocol
    return resolve(p, Setting(config.ipc // parts, classes, p.image_size, student))


def increments(config: Config, sets: Sequence[SetRef]) -> list[SetRef]:
    """The parts of every distilled set, if they are asked for; the whole training split is not cut."""
    n = config.evaluate.increments or 0
    cut = [s for s in sets if s.artifact is not None]
    return [
        replace(s, name=f"{s.name} part {i + 1} of {n}", images=s.images // n, increment=(i, n))
        for s in cut
        for i in range(n)
    ]


def trainings(
    config: Config, run: RunDir, sets: Sequence[SetRef], test: Listing, teaching: Teaching | None = None
) -> list[Training]:
    """Every student x seed on every set, in that order of importance: all sets of a seed before the next seed."""
    e = config.evaluate

    def training(student: str, seed: int, s: SetRef) -> Training:
        own = recipe(config, len(test.classes), student, s.increment[1] if s.increment else 1)
        if s.artifact is None and e.full_epochs is not None:
            own = replace(own, visits=e.full_epochs * s.images)
        stored = teaching.stored.get(s.digest) if teaching else None
        print_of = fingerprint(
            "evaluate",
            VERSION,
            own.tree(),
            e.width,
            e.threads,
            test.digest,
            config.source.image_size,
            config.source.max_pixels,
            s.digest,
            student,
            seed,
            teaching.network.identity() if teaching else None,
            stored[1].digest if stored else None,
            *([s.increment] if s.increment else []),
            *([e.dtype] if e.dtype != "float32" else []),
            *registry.identity("student", student),
            *registry.identity("protocol", e.protocol.name),
        )
        return Training(s, student, seed, own, run.artifact("evaluations", print_of))

    return [training(student, seed, s) for student in e.students for seed in range(e.seeds) for s in sets]


def everything(
    config: Config, run: RunDir, sets: Sequence[SetRef], test: Listing, teaching: Teaching | None
) -> list[Training]:
    """The trainings on the sets, and on their parts if these are asked for."""
    return trainings(config, run, [*sets, *increments(config, sets)], test, teaching)


def without_weights(config: Config, run: RunDir, every: Sequence[Training]) -> set[str]:
    """Labels of the trainings whose students are to be kept and are not there."""
    checkpoints = run.root / "checkpoints"
    return {t.label for t in every if config.evaluate.keep_weights and not t.weights(checkpoints).there()}


def unfinished(config: Config, run: RunDir, every: Sequence[Training]) -> list[Training]:
    lacking = without_weights(config, run, every)
    return [t for t in every if t.label in lacking or t.artifact.manifest() is None]


def fit(job: Job, run: RunDir, config: RayConfig, prove: Callable[[], None]) -> None:
    """One Ray Train fit over the trainings that are left. Raises StageFailed with what went wrong."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from raydistill.stages import fits
    from raydistill.stages.failures import translate
    from raydistill.stages.pool import ATTEMPTS, release
    from raydistill.stages.process_group import NoGroup
    from raydistill.stages.runtime import ensure_ray, pool_size

    ensure_ray(config)
    prove()
    release()
    e = job.evaluate
    workers = pool_size(of_students(e), e.threads, len(job.trainings))
    resources = {"CPU": e.num_cpus} | ({"GPU": e.num_gpus} if e.num_gpus else {})
    name = "evaluate-" + fingerprint([t.artifact.fingerprint for t in job.trainings])
    trainer = TorchTrainer(
        train_loop,
        train_loop_config={"job": pickle.dumps(job)},
        torch_config=NoGroup(),  # workers share no gradient; NCCL would refuse two on one GPU
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=e.num_gpus > 0, resources_per_worker=resources),
        run_config=RunConfig(
            name=name, storage_path=str(run.root / "checkpoints"), failure_config=FailureConfig(max_failures=ATTEMPTS)
        ),
    )
    with Progress("evaluate", "trainings", len(job.trainings)) as progress:
        try:
            fits.fit(trainer, Watch(job.trainings, e.deadline_s, progress).look, LOOK_S)
        except StageFailed:
            raise
        except Exception as error:  # Ray Train wraps whatever a worker raised
            raise translate(error, "evaluate") from error


class Watch:
    """Sees the trainings that are committed while the fit goes on, and when none has been for too long."""

    def __init__(self, trainings: Sequence[Training], deadline_s: float, progress: Progress) -> None:
        self.open, self.deadline_s, self.progress = list(trainings), deadline_s, progress
        self.moved = time.monotonic()

    def look(self) -> None:
        """Raises StageFailed when no training has finished for the deadline."""
        done = []
        with contextlib.suppress(OSError):  # a store that does not answer now may answer at the next look
            done = [t for t in self.open if (t.artifact.location / "commits").list()]
        if done:
            self.open = [t for t in self.open if t not in done]
            self.progress.advance(len(done))
            self.moved = time.monotonic()
        elif self.open and time.monotonic() - self.moved > self.deadline_s:
            raise StageFailed(
                f"evaluate: no training finished for {self.deadline_s:g} s ({self.open[0].label} is open); the workers "
                "hang or could not be placed (see `ray status`); run the same command again, or raise "
                "evaluate.deadline_s"
            )


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
    every = everything(config, run, sets, test, teaching)
    checkpoints = run.root / "checkpoints"
    lacking = without_weights(config, run, every)
    left = unfinished(config, run, every)
    if len(left) < len(every):
        say("evaluate", f"{len(every) - len(left)} of {len(every)} trainings found finished")
    if not left:
        return every, 0.0
    start = time.monotonic()
    todo = [t for t in left if t.label in lacking or KEY not in t.artifact.records()]
    if todo:
        logs = run.root / "logs"
        job = Job(tuple(todo), config.source, train, test, config.evaluate, logs, checkpoints, teaching)
        fit(job, run, config.ray, prove)
    else:
        say("evaluate", f"{len(left)} trainings were finished before; their manifests are written again")
    manifests = [t.artifact.seal([KEY]) for t in left]
    left_out = sorted({b for m in manifests for b in m.records[0].meta.get("left_out", [])})
    if left_out:
        say("evaluate", f"{len(left_out)} broken images were left out (first: {left_out[0]})")
    return every, time.monotonic() - start if todo else 0.0
