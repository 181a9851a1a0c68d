"""Curricula of few images in one process: what grows, and what was trained on the way."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import config, few

from raydistill.distributed import students
from raydistill.pipeline import curriculum
from raydistill.pipeline.preflight import prepare
from raydistill.pipeline.steps import Steps
from raydistill.stages.evaluation import trainer
from raydistill.stages.runner import Stage, serial
from raydistill.stages.syntheses.distilled_set import DistilledSet
from raydistill.state import Prepared

LEARNS = {"visits": 400, "batch": 8, "lr": 0.05, "image_size": 16, "evaluations": 1}
EVALUATE = {"width": 8, "seeds": 1, "baselines": [], "full_epochs": 10, "protocol": LEARNS, "device": "cpu"}


@contextmanager
def fitted_here() -> Iterator[list[str]]:
    """Labels of what is trained, in this process in place of Ray Train."""
    labels: list[str] = []

    def fit(job: trainer.Job, *_: object) -> None:
        for t in job.trainings:
            labels.append(t.label)
            trainer.StudentTrainer(job, torch.device("cpu"), "cpu").run(t)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(students, "fit", fit)
        yield labels


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has its latents, class by class."""
    p = prepared(tmp_path_factory.mktemp("begun") / "run")
    p.run.claim()
    Steps(p, serial).classes()
    return Path(p.run.root.uri)


@pytest.fixture
def root(begun: Path, tmp_path: Path) -> Path:
    """A copy of it, for one test."""
    return shutil.copytree(begun, tmp_path / "run")


def prepared(root: Path, ipc: int = 2, **more: Any) -> Prepared:
    """With few images to learn from and to test on."""
    own = {"increment": 1, "seed_method": "dit", "candidates": 2} | more.pop("lgd", {})
    asked = config(method="lgd", ipc=ipc, run_dir=str(root), **{"evaluate": EVALUATE, "lgd": own} | more)
    p = prepare(asked)
    return replace(p, splits=replace(p.splits, train=few(p.splits.train, 41), test=few(p.splits.test, 40)))


def grown(p: Prepared) -> tuple[DistilledSet, list[str]]:
    """The set, and the names of the stages that had work."""
    began: list[str] = []

    class Watched(Steps):
        def _carry(self, stage: Stage, name: str) -> Any:
            outcome, self.computed = self.computed, False
            sealed = super()._carry(stage, name)
            began.extend([name] * self.computed)
            self.computed |= outcome
            return sealed

    return curriculum.grow(Watched(p, serial), p.variants[0])[0], began


def rows(made: DistilledSet) -> list[dict[str, Any]]:
    return sorted(made.read().to_pylist(), key=lambda r: (r["class_index"], r["slot"]))
