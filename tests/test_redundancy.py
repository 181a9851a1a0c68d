"""Redundancy of a set, from the students that stage evaluate trains on its parts."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from tiny_run import config

from raydistill import state
from raydistill.config import EvaluateConfig
from raydistill.distributed import students
from raydistill.errors import BadInput
from raydistill.evaluation.score import examine
from raydistill.evaluation.train import Student, train_student
from raydistill.metrics.redundancy import redundancy_parts
from raydistill.pipeline import job
from raydistill.pipeline.preflight import prepare
from raydistill.report.increments import PartMatrix, heat
from raydistill.results.numbers import metrics
from raydistill.stages.evaluation import image_sets, trainer
from raydistill.stages.runner import serial

CPU = torch.device("cpu")


def test_numbers_stay_legible_in_the_darkest_cell() -> None:
    """As those of the confusion matrix: the page's ink on a colour that covers less than half."""
    drawn = heat(PartMatrix("lgd", "convnet", np.array([[1.0, 0.0], [0.5, 1.0]]), 0.25, True, True))
    assert [float(v) for v in re.findall('opacity="([^"]+)"', drawn)] == [0.45, 0.06, 0.26, 0.45]


def test_the_parts_are_numbered_at_both_sides() -> None:
    share = np.array([[1.0, 0.0, 0.2], [0.5, 1.0, 0.1], [0.3, 0.4, 1.0]])
    drawn = heat(PartMatrix("lgd", "convnet", share, 0.25, True, True))
    assert re.findall('class="side"[^>]*>([^<]+)<', drawn) == [*"112233", "tested on", "trained on"]
    many = heat(PartMatrix("dit", "convnet", np.eye(21), 0.0, True, False))
    assert "side" not in many and 'viewBox="0 0 640 640"' in many, "too many to be told apart"


class TestRedundancy:
    """evaluate.redundancy_parts: each part of a set trains a student, which is tested on the images of every part."""

    @pytest.fixture
    def done(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> state.Results:
        def fit(job: trainer.Job, *_: object) -> None:
            worker = trainer.StudentTrainer(job, CPU, "cpu")
            for t in job.trainings:
                worker.run(t)

        monkeypatch.setattr(students, "fit", fit)
        asked = config(run_dir=str(tmp_path / "run"), metrics={"names": []}, encode={"chunk": 400, "batch": 50})
        parts = asked.evaluate.model_copy(update={"seeds": 2, "redundancy_parts": 3})
        return job.run(prepare(asked.model_copy(update={"evaluate": parts})), execute=serial)

    def test_it_is_the_mean_accuracy_on_the_other_parts(self, done: state.Results) -> None:
        numbers = metrics(done)
        assert {k for k in numbers if "redundancy" in k} == {"redundancy/convnet", "metrics/random/redundancy/convnet"}
        assert len(done.on_parts) == 2 * 2 * 3 and all(t.set.redundancy_part is None for t in done.trainings)
        ref = next(t.set for t in done.trainings if t.set.name == done.prepared.config.method)
        recipe = done.on_parts[0].recipe
        whole = image_sets.syntheses(ref, done.prepared.config.source, recipe.image_size).images
        of = torch.from_numpy(redundancy_parts(whole.labels.numpy(), 3, seed=0))
        parts = [whole.take(of == i) for i in range(3)]
        assert [sorted(p.labels.tolist()) for p in parts] == [[0, 1]] * 3, "an image of each class in every part"
        off = []
        for seed in range(2):
            for i, part in enumerate(parts):
                student = Student("convnet", done.prepared.config.evaluate.width, 2, seed)
                _, net = train_student(student, recipe, part, whole, CPU)
                off += [examine(net, other, 2).accuracy for j, other in enumerate(parts) if j != i]
        assert numbers["redundancy/convnet"] == pytest.approx(sum(off) / len(off), abs=1e-6)

    def test_parts_without_an_image_of_each_class_and_soft_labels_are_refused(self, tmp_path: Path) -> None:
        asked = config(run_dir=str(tmp_path / "run"))
        for update, why in (
            (
                {"redundancy_parts": 4},
                "evaluate.redundancy_parts=4 is more than the 3 images of a class; lower it, or raise ipc",
            ),
            (
                {
                    "redundancy_parts": 2,
                    "students": ["convnet"],
                    "protocol": asked.evaluate.protocol.model_copy(update={"name": "fkd"}),
                },
                "evaluate.redundancy_parts=2 goes with hard labels",
            ),
        ):
            wrong = asked.model_copy(update={"evaluate": asked.evaluate.model_copy(update=update)})
            with pytest.raises(BadInput, match=why):
                prepare(wrong)
        assert not (tmp_path / "run").exists()

    def test_a_single_part_is_none(self) -> None:
        with pytest.raises(ValidationError, match="redundancy_parts=1 cuts nothing; give 2 or more, or 0"):
            EvaluateConfig(redundancy_parts=1)
        assert EvaluateConfig(redundancy_parts=0).redundancy_parts == 0
