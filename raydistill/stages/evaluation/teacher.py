"""teacher: how good the teacher is itself, on the images that students are tested on, before it labels anything."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch

from raydistill.config import Config, LabelConfig, SourceConfig
from raydistill.declared import Keys
from raydistill.errors import BrokenImage, StageFailed
from raydistill.evaluation.recipe import Recipe
from raydistill.identity import canonical
from raydistill.models import loaded
from raydistill.models.classifier import ClassifierSpec, class_columns
from raydistill.models.device import placement
from raydistill.sources.base import Listing, open_source
from raydistill.stages import quarantine
from raydistill.stages.evaluation.image_sets import load_images, too_many
from raydistill.stages.runner import Stage
from raydistill.stages.work import StageWork
from raydistill.store.artifact import Record
from raydistill.store.rundir import RunDir
from raydistill.store.sealed import Sealed

CHUNK = 250  # images a unit


@dataclass(frozen=True)
class Exam:
    """pixels (n, 3, S, S) uint8 as students are tested on, labels (n,) of the usable images, why others are not."""

    key: str
    pixels: np.ndarray
    labels: np.ndarray
    broken: list[tuple[str, str]]


@dataclass(frozen=True)
class TeacherWork(StageWork):
    name, folder = "teacher", "teachers"

    network: ClassifierSpec
    test: Annotated[Listing, Keys("digest")]
    recipe: Annotated[Recipe, Keys("image_size", "test_crop")]
    source: Annotated[SourceConfig, Keys("image_size", "max_pixels")]
    label: Annotated[LabelConfig, Keys("batch", "dtype", "threads")]

    def load(self, item: tuple[str, int]) -> Exam:
        """Of a unit that begins at an image of the test split."""
        key, start = item
        ids = self.test.ids[start : start + CHUNK].to_pylist()
        pixels, labels = [np.empty((0, 3, self.recipe.image_size, self.recipe.image_size), np.uint8)], []
        broken: list[tuple[str, str]] = []
        for i, blob in enumerate(open_source(self.source).read(self.test.split, ids)):
            try:
                pixels.append(load_images([blob], self.source, self.recipe.image_size, self.recipe.test_crop))
            except BrokenImage as e:
                broken.append((f"{self.test.split}/{ids[i]}", str(e)))
                continue
            labels.append(self.test.labels[start + i])
        return Exam(key, np.concatenate(pixels), np.array(labels, np.int64), broken)

    def open(self) -> Callable[[Exam], Record]:
        at = placement(self.label)
        network = loaded.classifier(self.network, at)
        columns = torch.from_numpy(class_columns(self.network, [c.class_id for c in self.test.classes]))

        def finish(unit: Exam) -> Record:
            key, pixels, labels = unit.key, unit.pixels, unit.labels
            right = 0
            for i in range(0, len(labels), self.label.batch):
                x = torch.from_numpy(pixels[i : i + self.label.batch]).float() / 255
                answer = network.logits(x).cpu()[:, columns].argmax(1).numpy()
                right += int((answer == labels[i : i + self.label.batch]).sum())
            body = canonical({"right": right, "images": len(labels)}).encode()
            meta = json.loads(body) | ({"broken": [list(b) for b in unit.broken]} if unit.broken else {})
            return self.artifact.commit(key, body, rows=len(labels), device=at.kind, ext="json", meta=meta)

        return finish


def stage(config: Config, run: RunDir, test: Listing, network: ClassifierSpec, recipe: Recipe) -> Stage:
    """The teacher's answers to all test images. A teacher below twice chance is refused."""
    work = TeacherWork(network, test, recipe, config.source, config.label).within(run)
    starts = {f"chunk-{i:05d}": i * CHUNK for i in range(-(-len(test) // CHUNK))}

    def inspect(records: list[Record]) -> None:
        check_broken([b for r in records for b in r.meta.get("broken", [])], test, config.source.max_broken, run)
        accuracy, wanted = _accuracy(records), least(len(test.classes))
        if accuracy < wanted:
            raise StageFailed(
                f"teacher: {network.path} recognises {100 * accuracy:.1f} % of the test images, less than the "
                f"{100 * wanted:.1f} % that {len(test.classes)} classes ask for, so it labels nothing; check "
                "teacher.classes, or give another teacher.path"
            )

    return Stage(
        "teacher",
        "images",
        work.artifact,
        list(starts),
        lambda key: (key, starts[key]),
        work,
        len(test),
        "actors",
        config.label,
        inspect=inspect,
    )


def check_broken(broken: Sequence[Sequence[str]], test: Listing, limit: float, run: RunDir) -> None:
    """Lists the broken test images. Raises StageFailed above the limit."""
    if not broken:
        return
    where = quarantine.add(run.root / "logs", broken)
    if len(broken) > limit * len(test):
        raise StageFailed(f"teacher: {too_many(broken, test, limit, str(where))}")


def least(classes: int) -> float:
    """Accuracy below which classes or colours are most likely mixed up: twice chance; of two classes three quarters."""
    return min(2 / classes, (1 + 1 / classes) / 2)


def accuracy(examined: Sealed) -> float:
    """Top-1 among the classes of the set, as a fraction."""
    return _accuracy(examined.records)


def _accuracy(records: Sequence[Record]) -> float:
    return sum(r.meta["right"] for r in records) / max(1, sum(r.meta["images"] for r in records))
