"""Soft labels: what a teacher says of a view, how it is stored, how a student is told; without Ray."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tiny_run import GENERATED, STAGES, TinyRun, backwards, config

from raydistill.config import Config
from raydistill.distributed import students
from raydistill.errors import BadInput, StageFailed
from raydistill.evaluation.augment import Augment
from raydistill.evaluation.colour import normalise, unit_range
from raydistill.evaluation.recipe import Recipe
from raydistill.evaluation.stored import StoredTargets, view_boxes
from raydistill.evaluation.targets import AT_ONCE, Live
from raydistill.evaluation.train import Student
from raydistill.models.checkpoint import read_header
from raydistill.models.classifier import HEADER, Classifier, ClassifierSpec, class_columns
from raydistill.models.device import Placement
from raydistill.pipeline import preflight
from raydistill.stages import runner
from raydistill.stages.evaluation import image_sets, label, teacher, trainer, trainings
from raydistill.stages.evaluation.checkpoint import Weights, described
from raydistill.stages.runner import serial
from raydistill.store.location import Location
from raydistill.store.rundir import RunDir
from raydistill.store.sealed import Sealed

CPU = Placement(torch.device("cpu"), torch.float32, "cpu")
SIZE = 16


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose images of two classes of digits are there."""
    root = tmp_path_factory.mktemp("finished") / "run"
    tiny = TinyRun(root)
    tiny.finish([s for s in STAGES if "random" not in s])
    return root


@pytest.fixture(scope="module")
def taught(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A convnet trained on all images of the run, as `keep_weights` leaves it."""
    tiny = TinyRun(finished)
    asked = soft(tiny, name="hard", visits=400, batch=8, lr=0.05, keep=True)
    full = image_sets.SetRef("full data", tiny.train.digest, len(tiny.train), None)
    out = tmp_path_factory.mktemp("taught")
    students, _ = go(asked, tiny, [full], out)
    assert (score := trainer.score(students[0])) is not None and score.last > 0.8
    return kept(students[0], out)


def soft(tiny: TinyRun, keep: bool = False, path: Path | None = None, **protocol: Any) -> Any:
    off = {"image_size": SIZE, "evaluations": 2}
    return config(
        evaluate={"students": ["convnet"], "width": 8, "seeds": 1, "keep_weights": keep, "protocol": off | protocol},
        teacher={"path": str(path) if path else None},
        label={"batch": 5, "device": "cpu"},
    )


def go(asked: Any, tiny: TinyRun, sets: list[Any], out: Path, teaching: Any = None) -> tuple[list[Any], float]:
    """Evaluation with one process in place of Ray Train; artifacts under `out`."""

    def fit(job: trainer.Job, *_: object) -> None:
        worker = trainer.StudentTrainer(job, torch.device("cpu"), "cpu")
        for t in job.trainings:
            worker.run(t)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(students, "fit", fit)
        return students.evaluate(asked, RunDir(str(out / "run")), sets, tiny.train, tiny.test, lambda: None, teaching)


def kept(training: trainer.Training, out: Path) -> Path:
    return Path(training.checkpoint(Location.of(str(out / "run" / "checkpoints"))).path)


def spec(path: Path) -> ClassifierSpec:
    return ClassifierSpec(str(path), key="teacher")


def reference(tiny: TinyRun) -> image_sets.SetRef:
    return image_sets.SetRef.of(GENERATED, tiny.distilled(GENERATED))


def fkd(tiny: TinyRun, **more: Any) -> Recipe:
    return trainings.recipe(soft(tiny, name="fkd", epochs=4, views=3, **more), 2, "convnet")


class TestKept:
    def test_a_student_that_was_kept_is_a_classifier(self, finished: Path, taught: Path) -> None:
        tiny, network = TinyRun(finished), Classifier(spec(taught), CPU)
        images = image_sets.real_images(tiny.config.source, tiny.test, SIZE).images
        answers = network.logits(images.pixels / 255).argmax(1)
        assert (answers == images.labels).float().mean() > 0.8 and network.spec.class_ids == ["3", "7"]

    def test_weights_are_made_again_if_they_are_gone(self, finished: Path, tmp_path: Path) -> None:
        tiny = TinyRun(finished)
        quick: dict[str, Any] = {"name": "hard", "visits": 8, "evaluations": 1}
        before, _ = go(soft(tiny, **quick), tiny, [reference(tiny)], tmp_path)
        folder = tmp_path / "run" / "classifiers"
        assert not folder.exists()
        go(soft(tiny, keep=True, **quick), tiny, [reference(tiny)], tmp_path)
        first = kept(before[0], tmp_path).read_bytes()
        shutil.rmtree(folder)
        after, seconds = go(soft(tiny, keep=True, **quick), tiny, [reference(tiny)], tmp_path)
        assert kept(after[0], tmp_path).read_bytes() == first and seconds > 0
        assert before[0].artifact.manifest() == after[0].artifact.manifest()
        assert go(soft(tiny, keep=True, **quick), tiny, [reference(tiny)], tmp_path)[1] == 0

    def test_weights_of_another_training_do_not_count(self, tmp_path: Path) -> None:
        net = Student("convnet", 8, 2, 0).build(SIZE)
        about = described("convnet", 8, ["a", "b"], SIZE, "one")
        Weights(Location.of(str(tmp_path)), "student", "one").write(net.state_dict(), about)
        assert Weights(Location.of(str(tmp_path)), "student", "one").there()
        assert not Weights(Location.of(str(tmp_path)), "student", "other").there()


class TestTeacher:
    def test_its_accuracy_is_that_of_its_answers(self, finished: Path, taught: Path, tmp_path: Path) -> None:
        tiny = TinyRun(finished)
        asked, r = soft(tiny, path=taught), fkd(tiny)
        stage = teacher.stage(asked, RunDir(str(tmp_path)), tiny.test, spec(taught), r)
        examined = runner.run(stage, serial).sealed
        images = image_sets.real_images(asked.source, tiny.test, SIZE, r.test_crop).images
        answers = Classifier(spec(taught), CPU).logits(images.pixels / 255).argmax(1)
        assert teacher.accuracy(examined) == pytest.approx((answers == images.labels).double().mean().item())
        assert examined.rows == len(tiny.test)

    def test_one_that_knows_nothing_is_refused_in_one_line(self, finished: Path, taught: Path, tmp_path: Path) -> None:
        """Its classes turned round: of two classes it now gets the others right."""
        tiny = TinyRun(finished)
        wrong = relabelled(taught, tmp_path / "wrong", ["7", "3"])
        run, asked = RunDir(str(tmp_path / "run")), soft(tiny, path=wrong)
        stage = teacher.stage(asked, run, tiny.test, spec(wrong), fkd(tiny))
        with pytest.raises(StageFailed, match=r"less than the 75\.0 % that 2 classes ask for") as caught:
            runner.run(stage, serial)
        assert "\n" not in str(caught.value) and stage.artifact.manifest() is None

    def test_broken_test_images_are_listed_and_too_many_refused(
        self, finished: Path, taught: Path, tmp_path: Path
    ) -> None:
        """Those larger than source.max_pixels: all of them."""
        tiny, run = TinyRun(finished), RunDir(str(tmp_path))
        asked = soft(tiny, path=taught)
        small = asked.model_copy(update={"source": asked.source.model_copy(update={"max_pixels": 1})})
        stage, n = teacher.stage(small, run, tiny.test, spec(taught), fkd(tiny)), len(tiny.test)
        with pytest.raises(StageFailed, match=f"^teacher: {n} of {n} images of split .* source.max_broken=0.01"):
            runner.run(stage, serial)
        assert len((tmp_path / "logs" / "quarantine.tsv").read_text().splitlines()) == n

    def test_it_must_be_twice_as_good_as_chance(self) -> None:
        """Of two classes that would be perfect: half-way to it is enough."""
        assert [teacher.least(k) for k in (2, 3, 10, 1000)] == pytest.approx([0.75, 2 / 3, 0.2, 0.002])

    def test_soft_labels_need_one(self, finished: Path) -> None:
        tiny = TinyRun(finished)
        with pytest.raises(BadInput, match=r"name=fkd trains on a teacher's labels: give teacher\.path"):
            teacher_of(soft(tiny, name="fkd"), ["3", "7"])
        assert teacher_of(soft(tiny, name="hard"), ["3", "7"]) is None

    def test_one_without_a_class_is_refused(self, finished: Path, taught: Path) -> None:
        with pytest.raises(BadInput, match="class '5' is not one of the 2 classes of the teacher"):
            teacher_of(soft(TinyRun(finished), path=taught, name="fkd"), ["3", "5"])


def teacher_of(config: Config, class_ids: list[str]) -> ClassifierSpec | None:
    """The teacher that a configuration without methods asks for."""
    return preflight.find_teacher(config, class_ids, preflight.teacher_asked_by(config, [], True))


def relabelled(teacher_at: Path, to: Path, class_ids: list[str], extra: int = 0) -> Path:
    """The same network whose columns are called otherwise, and with more classes that it believes in."""
    to.mkdir(parents=True)
    tensors, about = load_file(teacher_at), read_header(teacher_at, HEADER, "teacher")
    order = [about["classes"].index(c) if c in about["classes"] else -1 for c in class_ids]
    if extra:
        for name in ("head.weight", "head.bias"):
            padded = torch.cat([tensors[name], torch.full((extra, *tensors[name].shape[1:]), 3.0)])
            tensors[name] = padded[[i if i >= 0 else len(padded) - 1 for i in order]].contiguous()
    save_file(tensors, to / "model.safetensors")
    (to / "config.json").write_text(json.dumps(about | {"classes": class_ids}))
    return to


def labelled(tiny: TinyRun, path: Path, out: Path, execute: Any = serial, **more: Any) -> tuple[Any, Sealed]:
    stage = label.stage(
        soft(tiny, path=path), RunDir(str(out)), reference(tiny), tiny.train.classes, spec(path), fkd(tiny, **more)
    )
    return stage, runner.run(stage, execute).sealed


class TestLabels:
    def test_each_is_the_teachers_answer_to_that_view(self, finished: Path, taught: Path, tmp_path: Path) -> None:
        tiny, r = TinyRun(finished), fkd(TinyRun(finished))
        _, labels = labelled(tiny, taught, tmp_path)
        images = image_sets.syntheses(reference(tiny), tiny.config.source, SIZE).images
        views, network = label.read(labels, len(images), r.views), Classifier(spec(taught), CPU)
        assert views.codes.shape == (3, len(images), 2)
        for view in range(r.views):
            boxes = view_boxes(np.arange(len(images)), view, r)
            for i in range(len(images)):
                t, left, h, w = (getattr(boxes, k)[i] for k in ("top", "left", "height", "width"))
                cut = images.pixels[i : i + 1, :, t : t + h, left : left + w].float() / 255
                seen = F.interpolate(cut, (SIZE, SIZE), mode="bilinear", align_corners=False)
                expected = network.logits(seen.flip(3) if boxes.flip[i] else seen)[0]
                logits = views.low[view, i] + views.step[view, i] * views.codes[view, i]
                torch.testing.assert_close(logits, expected, rtol=0, atol=float(views.step[view, i]) / 2 + 1e-3)
                assert views.boxes[view].top[i] == t and views.boxes[view].flip[i] == boxes.flip[i]

    def test_order_and_interruption_change_nothing(self, finished: Path, taught: Path, tmp_path: Path) -> None:
        tiny = TinyRun(finished)
        undisturbed, labels = labelled(tiny, taught, tmp_path / "one")
        assert len(undisturbed.keys) > 1
        assert labelled(tiny, taught, tmp_path / "two", backwards)[1].manifest == labels.manifest

        def broken(stage: Any, todo: Any) -> Any:
            yield from serial(stage, todo[:1])
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            labelled(tiny, taught, tmp_path / "three", broken)
        assert labelled(tiny, taught, tmp_path / "three")[1].manifest == labels.manifest

    def test_columns_are_found_by_class_id(self, finished: Path, taught: Path, tmp_path: Path) -> None:
        """A teacher with the classes in another order and one more of its own says the same of these."""
        tiny = TinyRun(finished)
        other = relabelled(taught, tmp_path / "other", ["zebra", "7", "3"], extra=1)
        one, two = (labelled(tiny, path, tmp_path / path.name) for path in (taught, other))
        first, second = (label.read(labels, 6, 3) for _, labels in (one, two))
        assert torch.equal(first.codes, second.codes) and torch.allclose(first.low, second.low, atol=1e-4)

    def test_other_views_are_other_labels_another_rate_is_not(
        self, finished: Path, taught: Path, tmp_path: Path
    ) -> None:
        tiny = TinyRun(finished)
        prints = [
            labelled(tiny, taught, tmp_path, **more)[0].artifact.fingerprint
            for more in ({}, {"lr": 0.5, "cutmix": 0.3}, {"crop_scale": 0.5})
        ]
        assert prints[0] == prints[1] != prints[2]


class TestSoftLabelsOfLiveProtocols:
    """`soft_labels`: rded and rd3 with so many stored labels an image, of the very views that students are shown."""

    def test_the_label_is_of_the_shuffled_view_that_the_student_sees(
        self, finished: Path, taught: Path, tmp_path: Path
    ) -> None:
        tiny = TinyRun(finished)
        asked = soft(tiny, path=taught, name="rd3", epochs=4, soft_labels=2)
        r, ref, network = trainings.recipe(asked, 2, "convnet"), reference(tiny), Classifier(spec(taught), CPU)
        stage = label.stage(asked, RunDir(str(tmp_path)), ref, tiny.train.classes, spec(taught), r)
        images = image_sets.syntheses(ref, tiny.config.source, SIZE).images
        views = label.read(runner.run(stage, serial).sealed, len(images), r.views)
        assert (r.patches, len(views.boxes)) == (2, 2)
        seen, rows = Augment(images, r, 7, views), np.arange(len(images))
        for epoch in range(3):
            view = epoch % 2
            logits = views.low[view, :, None] + views.step[view, :, None] * views.codes[view]
            expected = network.logits(unit_range(seen(epoch, rows)))
            torch.testing.assert_close(logits, expected, rtol=0, atol=float(views.step.max()) / 2 + 1e-3)
        assert not torch.allclose(views.low[0], views.low[1], atol=1e-3), "two views"

    def test_patches_are_in_the_fingerprint_of_labels(self, finished: Path, taught: Path, tmp_path: Path) -> None:
        tiny = TinyRun(finished)
        plain, other = (
            labelled(tiny, taught, tmp_path, **more)[0].artifact.fingerprint for more in ({}, {"patches": 2})
        )
        assert plain != other


class TestTold:
    def test_stored_targets_are_softened_and_follow_the_epochs(
        self, finished: Path, taught: Path, tmp_path: Path
    ) -> None:
        tiny = TinyRun(finished)
        views = label.read(labelled(tiny, taught, tmp_path)[1], 6, 3)
        targets, rows = StoredTargets(views, 20.0), np.array([4, 0])
        for epoch in range(5):
            view = epoch % 3
            logits = views.low[view, rows, None] + views.step[view, rows, None] * views.codes[view, rows]
            torch.testing.assert_close(targets(torch.empty(0), epoch, rows), (logits / 20).softmax(1))

    def test_a_live_teacher_sees_what_the_student_sees(self, finished: Path, taught: Path) -> None:
        tiny, network = TinyRun(finished), Classifier(spec(taught), CPU)
        pixels = image_sets.syntheses(reference(tiny), tiny.config.source, SIZE).images.pixels
        told = Live(network, class_columns(network.spec, ["7", "3"]), 20.0, True)(normalise(pixels), 0, np.arange(6))
        expected = (network.logits(pixels / 255)[:, [1, 0]] / 20).softmax(1)
        torch.testing.assert_close(told, expected, rtol=0, atol=1e-5)

    def test_a_live_teacher_is_shown_a_large_batch_in_parts(
        self, taught: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its memory is that of a part, whatever the batch; the answers are in order and those of the whole."""
        network, sizes = Classifier(spec(taught), CPU), []
        whole = network.logits
        monkeypatch.setattr(network, "logits", lambda x: (sizes.append(len(x)), whole(x))[1])
        x = torch.rand(2 * AT_ONCE["cpu"] + 3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
        told = Live(network, class_columns(network.spec, ["7", "3"]), 20.0, True)(
            normalise(255 * x), 0, np.arange(len(x))
        )
        assert sizes == [AT_ONCE["cpu"], AT_ONCE["cpu"], 3]
        torch.testing.assert_close(told, (whole(x)[:, [1, 0]] / 20).softmax(1), rtol=0, atol=1e-5)

    @pytest.mark.parametrize(
        ("name", "more"),
        [
            ("rded", {"batch": 4}),
            ("fkd", {"views": 3}),
            ("rd3", {"batch": 4, "soft_labels": 3}),
        ],
    )
    def test_students_of_soft_protocols_learn(
        self, name: str, more: dict[str, Any], finished: Path, taught: Path, tmp_path: Path
    ) -> None:
        """Trained on six images and on all; what is committed says by whom, and what it takes to store."""
        tiny = TinyRun(finished)
        asked = soft(tiny, path=taught, name=name, epochs=60, lr=0.01, **more)
        sets = [reference(tiny), image_sets.SetRef("full data", tiny.train.digest, len(tiny.train), None)]
        stored = {}
        if name != "rded":
            stage = label.stage(
                asked,
                TinyRun(tmp_path).run,
                sets[0],
                tiny.train.classes,
                spec(taught),
                trainings.recipe(asked, 2, "convnet"),
            )
            stored = {sets[0].digest: runner.run(stage, serial).sealed}
        teaching = trainer.Teaching(spec(taught), 0.9, stored)
        students, _ = go(asked, tiny, sets, tmp_path, teaching)
        distilled, full = (trainer.body(t) for t in students)
        assert distilled is not None and full is not None and full["last"] > 0.7
        assert distilled["teacher"] == {"architecture": "convnet", "accuracy": 0.9}
        assert distilled["protocol"]["protocol"] == name and distilled["protocol_name"].startswith(name)
        assert (distilled["bytes"]["labels"] > 0) == (name != "rded") and full["bytes"]["labels"] == 0
        assert distilled["loss"][-1][1] < distilled["loss"][0][1] * 1.5
