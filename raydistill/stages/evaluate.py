"""evaluate: one Ray Train fit takes a list of trainings (sets x students x seeds); committed ones never enter it."""

from __future__ import annotations

import _thread
import json
import pickle
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from raydistill.config import Config, EvaluateConfig, RayConfig, SourceConfig
from raydistill.errors import BrokenImage, StageFailed
from raydistill.evaluation.images import ImageSet
from raydistill.evaluation.recipe import Recipe, Setting, resolve, title
from raydistill.evaluation.score import Score
from raydistill.evaluation.train import Student, train_student
from raydistill.identity import fingerprint
from raydistill.models.device import device_kind, on_cuda
from raydistill.sources.base import Listing, open_source
from raydistill.sources.images import decode
from raydistill.stages import placement
from raydistill.stages.progress import Progress, say
from raydistill.store.artifact import Artifact, Manifest
from raydistill.store.location import Location
from raydistill.store.rundir import RunDir

VERSION = 2
KEY = "training"


@dataclass(frozen=True)
class SetRef:
    """A training set by reference: syntheses of a method, or (`artifact` None) all training images."""

    name: str
    digest: str
    images: int
    artifact: Artifact | None
    manifest: Manifest | None


@dataclass(frozen=True)
class Training:
    """The unit of commit. Its artifact's fingerprint holds everything that its result depends on."""

    set: SetRef
    student: str
    seed: int
    recipe: Recipe
    artifact: Artifact

    @property
    def label(self) -> str:
        return f"{self.set.name}/{self.student}/seed{self.seed}"


def trainings(config: Config, run: RunDir, sets: Sequence[SetRef], test: Listing) -> list[Training]:
    """Every student x seed on every set, in that order of importance: all sets of a seed before the next seed."""
    e = config.evaluate
    classes = len(test.classes)

    def training(student: str, seed: int, s: SetRef) -> Training:
        recipe = resolve(e.protocol, Setting(config.ipc, classes, e.protocol.image_size, student))
        if s.artifact is None and e.full_epochs is not None:
            recipe = replace(recipe, visits=e.full_epochs * s.images)
        print_of = fingerprint(
            "evaluate",
            VERSION,
            recipe.tree(),
            e.width,
            e.threads,
            test.digest,
            config.source.image_size,
            config.source.max_pixels,
            s.digest,
            student,
            seed,
        )
        return Training(s, student, seed, recipe, run.artifact("evaluations", print_of))

    return [training(student, seed, s) for student in e.students for seed in range(e.seeds) for s in sets]


def load_images(blobs: Sequence[bytes], source: SourceConfig, size: int, crop: float = 1.0) -> np.ndarray:
    """Encoded images -> (N, 3, size, size) uint8: prepared as for encoding, then resized to what the student sees.

    `crop` below 1 keeps the middle share of a side, as tests that resize to 256 and cut 224 do.
    """
    wide = round(size / crop)
    edge = (wide - size) // 2
    out = np.empty((len(blobs), size, size, 3), np.uint8)
    for i, blob in enumerate(blobs):
        pixels = decode(blob, source.image_size, source.max_pixels)
        if source.image_size != wide:
            pixels = np.asarray(Image.fromarray(pixels).resize((wide, wide), Image.Resampling.BICUBIC))
        out[i] = pixels[edge : edge + size, edge : edge + size]
    return np.ascontiguousarray(out.transpose(0, 3, 1, 2))


def image_set(pixels: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> ImageSet:
    weights = np.ones(len(labels)) if weights is None else weights
    wrong = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    if len(wrong):
        raise StageFailed(f"evaluate: the weight of image {wrong[0]} of a set is {weights[wrong[0]]}; make it again")
    return ImageSet(
        torch.from_numpy(pixels),
        torch.from_numpy(labels.astype(np.int64)),
        torch.from_numpy(weights.astype(np.float32)),
    )


def real_images(
    source: SourceConfig, listing: Listing, size: int, crop: float = 1.0
) -> tuple[ImageSet, list[str]]:
    """Every usable image of a split, and the ids of the broken ones, which are left out."""
    pixels, labels, broken = [], [], []
    for i, blob in enumerate(open_source(source).read(listing.split, listing.ids.to_pylist())):
        try:
            pixels.append(load_images([blob], source, size, crop)[0])
            labels.append(listing.labels[i])
        except BrokenImage as e:
            broken.append(f"{listing.split}/{listing.ids[i]}: {e}")
    if not pixels:
        raise StageFailed(
            f"evaluate: none of the {len(listing)} images of split {listing.split!r} can be used; mend them, run again"
        )
    return image_set(np.stack(pixels), np.array(labels)), broken


def syntheses(ref: SetRef, source: SourceConfig, size: int) -> ImageSet:
    assert ref.artifact is not None and ref.manifest is not None
    table = pa.concat_tables(
        [ref.artifact.read_table(r, columns=["class_index", "weight", "image"]) for r in ref.manifest.records]
    )
    return image_set(
        load_images(table["image"].to_pylist(), source, size),
        table["class_index"].to_numpy(),
        table["weight"].to_numpy(),
    )


def score(training: Training) -> Score | None:
    """The committed result, or None."""
    manifest = training.artifact.manifest()
    if manifest is None:
        return None
    return Score.of(json.loads(training.artifact.read(manifest.records[0])))


@dataclass(frozen=True)
class Job:
    """What a Ray Train worker is given."""

    trainings: tuple[Training, ...]
    source: SourceConfig
    train: Listing
    test: Listing
    evaluate: EvaluateConfig
    logs: Location


class Trainer:
    """Runs trainings in one process; images of a set are loaded once while they are needed."""

    def __init__(self, job: Job, device: torch.device, kind: str) -> None:
        self.job, self.device, self.kind = job, device, kind
        self.tests: dict[float, tuple[ImageSet, list[str]]] = {}
        self.cached: tuple[str, ImageSet, list[str]] | None = None

    def run(self, t: Training) -> None:
        """Trains and commits, unless that is done already."""
        if KEY in t.artifact.records():
            return
        images, broken = self.images(t.set, t.recipe.image_size)
        test, broken_tests = self.test(t.recipe)
        student = Student(t.student, self.job.evaluate.width, len(self.job.test.classes), t.seed)
        result, _ = train_student(student, t.recipe, images, test, self.device)
        protocol = {"protocol": t.recipe.tree(), "protocol_name": title(self.job.evaluate.protocol)}
        body = json.dumps(result.tree() | protocol, sort_keys=True).encode()
        meta = {"left_out": broken_tests + broken}
        t.artifact.commit(KEY, body, rows=1, device=self.kind, ext="json", meta=meta)

    def images(self, ref: SetRef, size: int) -> tuple[ImageSet, list[str]]:
        """A set's images and the ids of the broken ones."""
        if self.cached is None or self.cached[0] != ref.digest:
            if ref.artifact is None:
                self.cached = (ref.digest, *real_images(self.job.source, self.job.train, size))
            else:
                self.cached = (ref.digest, syntheses(ref, self.job.source, size), [])
        return self.cached[1:]

    def test(self, recipe: Recipe) -> tuple[ImageSet, list[str]]:
        """The images that this recipe tests on, and the ids of the broken ones."""
        if recipe.test_crop not in self.tests:
            self.tests[recipe.test_crop] = real_images(
                self.job.source, self.job.test, recipe.image_size, recipe.test_crop
            )
        return self.tests[recipe.test_crop]


def train_loop(payload: dict[str, bytes]) -> None:
    """What each Ray Train worker runs: its share of the list. Restarted workers find finished trainings committed."""
    import ray.train

    job: Job = pickle.loads(payload["job"])
    torch.set_num_threads(job.evaluate.threads)
    context = ray.train.get_context()
    cuda = on_cuda(job.evaluate.device, job.evaluate.num_gpus)
    trainer = Trainer(job, torch.device("cuda" if cuda else "cpu"), device_kind(cuda))
    for t in job.trainings[context.get_world_rank() :: context.get_world_size()]:
        trainer.run(t)
        placement.keep(job.logs, t.artifact, {KEY: placement.here()})


def fit(job: Job, run: RunDir, config: RayConfig, prove: Callable[[], None]) -> None:
    """One Ray Train fit over the trainings that are left. Raises StageFailed with what went wrong."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    from raydistill.stages.failures import translate
    from raydistill.stages.pool import ATTEMPTS, release
    from raydistill.stages.runtime import ensure_ray, pool_size

    ensure_ray(config)
    prove()
    release()
    e = job.evaluate
    workers = pool_size(e.workers, e.num_cpus, e.num_gpus, e.threads, len(job.trainings))
    resources = {"CPU": e.num_cpus} | ({"GPU": e.num_gpus} if e.num_gpus else {})
    name = "evaluate-" + fingerprint([t.artifact.fingerprint for t in job.trainings])
    trainer = TorchTrainer(
        train_loop,
        train_loop_config={"job": pickle.dumps(job)},
        torch_config=TorchConfig(backend="gloo"),  # workers share no gradient; NCCL would refuse two on one GPU
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=e.num_gpus > 0, resources_per_worker=resources),
        run_config=RunConfig(
            name=name, storage_path=str(run.root / "checkpoints"), failure_config=FailureConfig(max_failures=ATTEMPTS)
        ),
    )
    with Watch(job.trainings, e.deadline_s) as watch:
        try:
            trainer.fit()
        except KeyboardInterrupt:
            if not watch.expired:
                raise
            raise StageFailed(
                f"evaluate: no training finished for {e.deadline_s:g} s; the workers hang or could not be placed "
                "(see `ray status`); run the same command again, or raise evaluate.deadline_s"
            ) from None
        except Exception as error:  # Ray Train wraps whatever a worker raised
            raise translate(error, "evaluate") from error


class Watch:
    """Shows progress while the fit blocks, and interrupts it when nothing finishes for too long."""

    def __init__(self, trainings: Sequence[Training], deadline_s: float) -> None:
        self.open = list(trainings)
        self.deadline_s, self.expired = deadline_s, False
        self.progress = Progress("evaluate", "trainings", len(trainings))
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._poll, daemon=True)

    def __enter__(self) -> Watch:
        self.progress.__enter__()
        self.thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop.set()
        self.thread.join()
        if exc[0] is None:
            self._look()
        self.progress.__exit__()

    def _look(self) -> bool:
        done = [t for t in self.open if (t.artifact.location / "commits").list()]
        self.open = [t for t in self.open if t not in done]
        if done:
            self.progress.advance(len(done))
        return bool(done)

    def _poll(self) -> None:
        last = time.monotonic()
        while not self.stop.wait(2.0):
            if self._look():
                last = time.monotonic()
            elif time.monotonic() - last > self.deadline_s:
                self.expired = True
                _thread.interrupt_main()
                return


def evaluate(
    config: Config,
    run: RunDir,
    sets: Sequence[SetRef],
    train: Listing,
    test: Listing,
    prove: Callable[[], None] = lambda: None,
) -> tuple[list[Training], float]:
    """Brings every training to its manifest. Returns all trainings, and the seconds spent (0 if none was left).

    `prove` is called with Ray up and before the fit: it raises if a node does not see what it needs.
    """
    everything = trainings(config, run, sets, test)
    left = [t for t in everything if t.artifact.manifest() is None]
    if len(left) < len(everything):
        say("evaluate", f"{len(everything) - len(left)} of {len(everything)} trainings found finished")
    if not left:
        return everything, 0.0
    start = time.monotonic()
    todo = [t for t in left if KEY not in t.artifact.records()]
    if todo:
        job = Job(tuple(todo), config.source, train, test, config.evaluate, run.root / "logs")
        fit(job, run, config.ray, prove)
    manifests = [t.artifact.seal([KEY]) for t in left]
    left_out = sorted({b for m in manifests for b in m.records[0].meta.get("left_out", [])})
    if left_out:
        say("evaluate", f"{len(left_out)} broken images were left out (first: {left_out[0]})")
    return everything, time.monotonic() - start
