"""What each Ray Train worker does: its share of the trainings, each committed when it is done."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from raydistill import strict_json
from raydistill.config import EvaluateConfig, SourceConfig
from raydistill.evaluation.images import ImageSet
from raydistill.evaluation.recipe import Recipe, title
from raydistill.evaluation.score import Score, examine
from raydistill.evaluation.stored import StoredTargets
from raydistill.evaluation.targets import Live, Targets
from raydistill.evaluation.train import Student, advance, train_student
from raydistill.evaluation.zca import Whitening
from raydistill.identity import canonical
from raydistill.metrics.redundancy import redundancy_parts
from raydistill.models.classifier import Classifier, ClassifierSpec, class_columns
from raydistill.models.device import Placement, halves, inexact, mixed
from raydistill.sources.base import Listing
from raydistill.stages.evaluation import label, pixel_array
from raydistill.stages.evaluation.checkpoint import Checkpoint, TrainingState, Weights, described
from raydistill.stages.evaluation.image_sets import Loaded, SetRef, syntheses, usable_images, whitened
from raydistill.store.artifact import Artifact
from raydistill.store.location import Location
from raydistill.store.sealed import Sealed

KEY = "training"


@dataclass(frozen=True)
class Training:
    """The unit of commit. Its artifact's fingerprint holds everything that its result depends on."""

    set: SetRef
    student: str
    seed: int
    recipe: Recipe
    artifact: Artifact
    classifier: Artifact  # where the trained student is kept, if it is

    @property
    def label(self) -> str:
        return f"{self.set.name}/{self.student}/seed{self.seed}"

    def state(self, checkpoints: Location) -> TrainingState:
        return TrainingState(checkpoints / "trainings" / self.artifact.fingerprint)

    def checkpoint(self, checkpoints: Location) -> Checkpoint:
        name = re.sub(r"[^\w.-]", "_", f"{self.set.name}-{self.student}-seed{self.seed}")
        return Checkpoint(self.classifier, Weights(checkpoints, f"students/{name}", self.artifact.fingerprint))


@dataclass(frozen=True)
class Teaching:
    """A teacher, how good it is itself, and by the digest of a set's images its stored labels."""

    network: ClassifierSpec
    accuracy: float
    stored: dict[str, Sealed] = field(default_factory=dict)


@dataclass(frozen=True)
class Rung:
    """How many tests of a training are done before somebody decides whether it goes on, and where what they said is
    committed, by the fingerprints of the trainings."""

    tests: int
    artifacts: Mapping[str, Artifact]

    def of(self, t: Training) -> Artifact:
        return self.artifacts[t.artifact.fingerprint]


@dataclass(frozen=True)
class Job:
    """What a Ray Train worker is given. `rung`: up to it alone, not to the end. `recall`: a file that ends it early."""

    trainings: tuple[Training, ...]
    source: SourceConfig
    train: Listing
    test: Listing
    evaluate: EvaluateConfig
    logs: Location
    checkpoints: Location
    teaching: Teaching | None = None
    rung: Rung | None = None
    recall: Location | None = None

    def recalled(self) -> bool:
        """Whether workers shall begin no other training. A store that does not answer says no."""
        with contextlib.suppress(OSError):
            return self.recall is not None and self.recall.exists()
        return False

    def call_back(self) -> None:
        if self.recall is not None:
            self.recall.write(b"")

    def unrecall(self) -> None:
        if self.recall is not None and self.recall.exists():
            self.recall.delete()

    def done(self, t: Training) -> bool:
        """Whether all is committed that is to be kept of a training."""
        keeps = self.rung is None and self.evaluate.keep_weights
        committed = bool((self.output(t).location / "commits").list())
        return committed and (not keeps or t.checkpoint(self.checkpoints).there())

    def output(self, t: Training) -> Artifact:
        """What the job commits of a training."""
        return t.artifact if self.rung is None else self.rung.of(t)


def body(training: Training) -> dict[str, Any] | None:
    """What is committed of a training, or None: its score, protocol, bytes and teacher."""
    sealed = Sealed.finished(training.artifact)
    return None if sealed is None else strict_json.mapping(sealed.body())


def score(training: Training) -> Score | None:
    """The committed score, or None."""
    committed = body(training)
    return None if committed is None else Score.of(committed)


def curve(training: Training, rung: Rung) -> list[tuple[int, float]]:
    """(visits, top-1) of the tests up to a rung: as they were committed there, or of the training that is finished."""
    sealed = Sealed.finished(rung.of(training))
    if sealed is not None:
        return [(int(visits), float(top1)) for visits, top1 in strict_json.mapping(sealed.body())["curve"]]
    finished = score(training)
    assert finished is not None, "it was brought to this rung"
    return finished.curve[: rung.tests]


class StudentTrainer:
    """Runs trainings in one process; images of a set are loaded once while they are needed."""

    def __init__(self, job: Job, device: torch.device, kind: str, workers: int = 1) -> None:
        """`workers`: how many of them share this machine, each with its own images."""
        self.job, self.device, self.kind = job, device, kind
        self.most = pixel_array.most(job.evaluate, workers)
        self.tests: dict[float, Loaded] = {}
        self.cached: tuple[str, Loaded] | None = None
        self.teacher: Classifier | None = None
        self.by_train: Whitening | None = None  # what the training images say of whitening

    def run(self, t: Training) -> None:
        """Trains and commits, unless that is done already; an interrupted training continues at its last test."""
        if self.job.rung is not None:
            self.climb(t, self.job.rung)
            return
        e, checkpoints = self.job.evaluate, self.job.checkpoints
        checkpoint = t.checkpoint(checkpoints) if e.keep_weights else None
        done = KEY in t.artifact.records()
        if done and (checkpoint is None or checkpoint.there()):
            return
        loaded, test = self.images(t.set, t.recipe), self.test(t.recipe)
        train, parts = loaded.images, self.parts(t.set, loaded.images)
        if parts and t.set.redundancy_part:
            train = parts[t.set.redundancy_part[0]]
        class_ids = [c.class_id for c in self.job.test.classes]
        student = Student(t.student, e.width, len(class_ids), t.seed)
        targets, label_bytes = self.targets(t)
        state = t.state(checkpoints)
        arithmetic = mixed(e.dtype, self.device)
        result, net = train_student(
            student, t.recipe, train, test.images, self.device, targets, state, arithmetic, t.set.balanced
        )
        teaching, statistics = self.job.teaching if t.recipe.soft else None, t.recipe.statistics
        about = {
            "protocol": t.recipe.tree(),
            "protocol_name": title(e.protocol, t.recipe.labels)
            + (" in bfloat16" if halves(e.dtype, self.device) else ""),
            "bytes": {"images": loaded.bytes, "labels": label_bytes},
            "teacher": teaching and {"architecture": teaching.network.architecture, "accuracy": teaching.accuracy},
            "test": self.job.test.digest,
            "increments": [
                examine(net, p.to(self.device), len(class_ids), arithmetic, statistics).accuracy for p in parts
            ],
        }
        if checkpoint is not None:
            size, training = t.recipe.image_size, t.artifact.fingerprint
            network = described(t.student, e.width, class_ids, size, training, statistics)
            checkpoint.write(net, network, self.kind)
        if KEY not in t.artifact.records():  # looked at again: another run may have come first meanwhile
            data = json.dumps(result.tree() | about, sort_keys=True).encode()
            left_out = [f"{name}: {reason}" for name, reason in test.broken + loaded.broken]
            meta = {"left_out": left_out, **inexact(self.kind)}
            t.artifact.commit(KEY, data, rows=1, device=self.kind, ext="json", meta=meta)
        state.forget()

    def climb(self, t: Training, rung: Rung) -> None:
        """Trains as far as a rung, and commits its tests; its state stays for whoever goes on with it."""
        e, artifact = self.job.evaluate, rung.of(t)
        if KEY in artifact.records():
            return
        progress, _ = advance(
            Student(t.student, e.width, len(self.job.test.classes), t.seed),
            t.recipe,
            self.images(t.set, t.recipe).images,
            self.test(t.recipe).images,
            self.device,
            self.targets(t)[0],
            t.state(self.job.checkpoints),
            mixed(e.dtype, self.device),
            t.set.balanced,
            rung.tests,
        )
        data = canonical({"curve": progress.curve[: rung.tests]}).encode()
        artifact.commit(KEY, data, rows=1, device=self.kind, ext="json", meta=inexact(self.kind))

    def images(self, ref: SetRef, recipe: Recipe) -> Loaded:
        if self.cached is None or self.cached[0] != ref.digest:
            self.cached = None  # two large sets at once are not needed
            loaded = (
                self.real(self.job.train, recipe.image_size)
                if ref.distilled is None
                else syntheses(ref, self.job.source, recipe.image_size)
            )
            self.cached = ref.digest, self.whitened(loaded, recipe, ref.levels)
        return self.cached[1]

    def real(self, listing: Listing, size: int, crop: float = 1.0) -> Loaded:
        """Every usable image of a split. Those that are not are listed; raises StageFailed if they are too many."""
        return usable_images(self.job.source, listing, size, crop, self.most, self.job.logs)

    def whitened(self, loaded: Loaded, recipe: Recipe, levels: tuple[float, float] | None = None) -> Loaded:
        """What a recipe with zca makes of them, by all training images; as they are otherwise."""
        if not recipe.zca:
            return loaded
        if self.by_train is None:
            self.by_train = Whitening.of(self.real(self.job.train, recipe.image_size).images.pixels)
        return replace(loaded, images=whitened(loaded.images, self.by_train, levels))

    def parts(self, ref: SetRef, images: ImageSet) -> list[ImageSet]:
        """The redundancy parts of the set of which `ref` is one, its increments if there are so many; none if it is a
        whole set."""
        if ref.redundancy_part is None:
            return []
        n, distilled = ref.redundancy_part[1], ref.distilled
        if distilled is not None and len(distilled.parts) == n:
            of = torch.repeat_interleave(torch.tensor([part.rows for part in distilled.parts]))
        else:
            of = torch.from_numpy(redundancy_parts(images.labels.numpy(), n, seed=0))
        return [images.take(of == i) for i in range(n)]

    def test(self, recipe: Recipe) -> Loaded:
        """The images that this recipe tests on."""
        if recipe.test_crop not in self.tests:
            loaded = self.real(self.job.test, recipe.image_size, recipe.test_crop)
            self.tests[recipe.test_crop] = self.whitened(loaded, recipe)
        return self.tests[recipe.test_crop]

    def targets(self, t: Training) -> tuple[Targets | None, int]:
        """What the images of a training are said to be, and the bytes of what is stored of it.

        Of the full data nothing is stored: there the teacher is asked for every view as it comes up.
        """
        if not t.recipe.soft:
            return None, 0
        teaching = self.job.teaching
        assert teaching is not None
        stored = teaching.stored.get(t.set.images_digest)
        if stored is not None:
            views = label.read(stored, t.set.images, t.recipe.views)
            return StoredTargets(views, t.recipe.temperature), sum(r.bytes for r in stored.records)
        if self.teacher is None:
            self.teacher = Classifier(teaching.network, Placement(self.device, torch.float32, self.kind))
        columns = class_columns(teaching.network, [c.class_id for c in self.job.test.classes])
        mixed_ones = t.recipe.labels == "teacher"
        return Live(self.teacher, columns, t.recipe.temperature, mixed_ones, t.recipe.statistics), 0
