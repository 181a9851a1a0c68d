"""A classifier trained on a set, as one call: kept by its fingerprint, found again, a teacher as it is; without Ray."""

from __future__ import annotations

import json
import shutil
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from samples import write_student
from tiny_run import GENERATED, TinyRun, config, few

import raydistill
from raydistill.distributed import classifiers, students
from raydistill.errors import BadInput, BrokenImage, CorruptArtifact
from raydistill.evaluation.train import Student
from raydistill.models.classifier import Classifier, ClassifierSpec
from raydistill.models.device import Placement
from raydistill.pipeline import preflight
from raydistill.sources.base import Splits, open_source, open_splits
from raydistill.stages.evaluation import image_sets, trainer, trainings
from raydistill.stages.evaluation.checkpoint import Checkpoint, described
from raydistill.stages.evaluation.image_sets import SetRef
from raydistill.store import faults
from raydistill.store.rundir import RunDir

CPU = Placement(torch.device("cpu"), torch.float32, "cpu")
SIZE = 16
LONG = {"visits": 400, "batch": 8, "lr": 0.05, "image_size": SIZE, "evaluations": 2}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose images of two classes of digits are there."""
    root = tmp_path_factory.mktemp("finished") / "run"
    TinyRun(root).finish(["encode", "group", "cluster", f"plan {GENERATED}", f"sample {GENERATED}"])
    return root


@pytest.fixture
def tiny(finished: Path, tmp_path: Path) -> TinyRun:
    shutil.copytree(finished, tmp_path / "run")
    run = TinyRun(tmp_path / "run")
    run.config = config(evaluate={"width": 8, "seeds": 1, "protocol": LONG})
    return run


@pytest.fixture(autouse=True)
def fitted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Labels of what was trained, in one process in place of Ray Train."""
    trained: list[str] = []

    def fit(job: trainer.Job, *_: object) -> None:
        for t in job.trainings:
            trained.append(t.label)
            trainer.StudentTrainer(job, torch.device("cpu"), "cpu").run(t)

    monkeypatch.setattr(students, "fit", fit)
    return trained


def splits(tiny: TinyRun) -> Splits:
    return Splits(open_source(tiny.config.source), tiny.train, tiny.test)


def everything(tiny: TinyRun) -> SetRef:
    return SetRef("full data", tiny.train.digest, len(tiny.train), None)


def syntheses(tiny: TinyRun) -> SetRef:
    return tiny.ref(GENERATED)


def train(tiny: TinyRun, on: SetRef | None = None, seed: int = 0) -> Checkpoint:
    return classifiers.train(tiny.config, tiny.run, on or everything(tiny), splits(tiny), "convnet", seed)


def test_of_all_images_none_is_held_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole split is the largest thing that a worker holds. A broken image leaves no gap."""

    class Numbered:
        def read(self, split: str, ids: list[str]) -> Iterator[bytes]:
            return (bytes([i]) for i in range(len(ids)))

    def decoded(blobs: list[bytes], source: object, size: int, crop: float) -> np.ndarray:
        if blobs == [b"\x03"]:
            raise BrokenImage("no image")
        return np.full((1, 3, size, size), blobs[0][0], np.uint8)

    monkeypatch.setattr(image_sets, "open_source", lambda source: Numbered())
    monkeypatch.setattr(image_sets, "load_images", decoded)
    asked = config().source
    listing = few(open_splits(asked).train, 12)
    tracemalloc.start()
    loaded = image_sets.real_images(asked, listing, 512)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert loaded.images.pixels[:, 0, 0, 0].tolist() == [0, 1, 2, *range(4, 12)] and len(loaded.broken) == 1
    assert len(loaded.images.labels) == 11 and peak < 1.2 * 12 * 3 * 512**2


class TestTrained:
    def test_it_knows_the_classes_of_its_set_and_needs_nothing_but_its_file(self, tiny: TinyRun) -> None:
        spec = ClassifierSpec(train(tiny).path, key="teacher")
        assert (spec.architecture, spec.class_ids, spec.image_size, spec.width) == ("convnet", ["3", "7"], SIZE, 8)
        images = image_sets.real_images(tiny.config.source, tiny.test, SIZE).images
        answers = Classifier(spec, CPU).logits(images.pixels / 255).argmax(1)
        assert (answers == images.labels).float().mean() > 0.8

    def test_it_is_found_again_and_shared_with_evaluate(self, tiny: TinyRun, fitted: list[str]) -> None:
        path = train(tiny).path
        assert fitted == ["full data/convnet/seed0"] and train(tiny).path == path
        keeping = classifiers.keeping(tiny.config)
        every, seconds = students.evaluate(keeping, tiny.run, [everything(tiny)], tiny.train, tiny.test)
        assert len(fitted) == 1 and seconds == 0 and every[0].checkpoint(tiny.run.root / "checkpoints").path == path
        elsewhere = RunDir(str(Path(tiny.root).parent / "other"), str(tiny.root))
        assert classifiers.train(tiny.config, elsewhere, everything(tiny), splits(tiny), "convnet").path == path
        assert len(fitted) == 1

    def test_a_distilled_set_gives_another_than_all_images(self, tiny: TinyRun) -> None:
        one, other = train(tiny), train(tiny, syntheses(tiny))
        assert one.path != other.path and train(tiny, seed=1).path not in (one.path, other.path)
        a, b = (load_file(k.path)["head.weight"] for k in (one, other))
        assert not torch.equal(a, b)

    def test_two_sets_of_one_name_have_their_own_weights(self, tiny: TinyRun, fitted: list[str]) -> None:
        """They overwrote each other, and each run trained both again."""
        sets = [replace(everything(tiny), name="mine"), replace(syntheses(tiny), name="mine")]
        keeping = classifiers.keeping(tiny.config)
        for _ in range(2):
            every, _seconds = students.evaluate(keeping, tiny.run, sets, tiny.train, tiny.test)
        assert fitted == ["mine/convnet/seed0"] * 2
        paths = {t.checkpoint(tiny.run.root / "checkpoints").path for t in every}
        assert len(paths) == 2 and all(Path(p).is_file() for p in paths)

    @pytest.mark.parametrize(
        ("stage", "point"),
        [
            ("training", "after_commit"),
            *(("classifiers", p) for p in ("before_write", "before_commit", "after_commit", "before_manifest")),
            *(("evaluations", p) for p in ("before_write", "after_commit", "after_manifest")),
        ],
    )
    def test_killed_anywhere_it_ends_with_the_same_bytes(
        self, stage: str, point: str, tiny: TinyRun, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        undisturbed = train(tiny)
        data = Path(undisturbed.path).read_bytes()
        for folder in ("classifiers", "evaluations"):
            shutil.rmtree(Path(tiny.root) / folder)

        def die(*reached: str) -> None:
            if reached[:2] == (stage, point):
                raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(faults, "hook", die)
            with pytest.raises(KeyboardInterrupt):
                train(tiny)
        again = train(tiny)
        assert again.path == undisturbed.path and Path(again.path).read_bytes() == data
        assert len(again.artifact.records()) == 1 and again.sealed()

    def test_a_damaged_file_is_named_and_the_remedy_helps(self, tiny: TinyRun) -> None:
        kept = train(tiny)
        whole = Path(kept.path).read_bytes()
        Path(kept.path).write_bytes(whole[:-1])
        with pytest.raises(CorruptArtifact, match=r"delete (\S+) and run the same command again") as said:
            train(tiny)
        assert str(kept.artifact.location) in str(said.value)
        shutil.rmtree(str(kept.artifact.location))
        assert Path(train(tiny).path).read_bytes() == whole


class TestFormerly:
    """Earlier versions kept a student in a folder by the name of its set."""

    @pytest.fixture
    def former(self, tiny: TinyRun) -> Checkpoint:
        t = classifiers.planned(tiny.config, tiny.run, everything(tiny), splits(tiny), "convnet", 0)
        students.train_missing(tiny.config, tiny.run, [t], tiny.train, tiny.test, lambda: None)
        kept = t.checkpoint(tiny.run.root / "checkpoints")
        net = Student("convnet", 8, 2, 5).build(SIZE)
        kept.former.write(net.state_dict(), described("convnet", 8, ["3", "7"], SIZE, t.artifact.fingerprint))
        return kept

    def test_it_is_found_there_and_read(self, tiny: TinyRun, former: Checkpoint, fitted: list[str]) -> None:
        fitted.clear()
        path = train(tiny).path
        assert path.endswith("checkpoints/students/full_data-convnet-seed0") and fitted == []
        assert ClassifierSpec(path).class_ids == ["3", "7"]

    def test_a_damaged_one_is_made_again_where_it_was(
        self, tiny: TinyRun, former: Checkpoint, fitted: list[str]
    ) -> None:
        file = Path(train(tiny).path) / "model.safetensors"
        file.unlink()
        assert Path(train(tiny).path) == file.parent and file.exists() and former.former.there()
        assert not (Path(tiny.root) / "classifiers").exists()

    def test_one_of_another_training_is_left_alone(self, tiny: TinyRun, former: Checkpoint, fitted: list[str]) -> None:
        """The same name, seed and student, another set: it was written over."""
        before = {p.name: p.read_bytes() for p in Path(train(tiny).path).iterdir()}
        folder, path = Path(train(tiny).path), train(tiny, replace(syntheses(tiny), name="full data")).path
        assert path.endswith(".safetensors") and {p.name: p.read_bytes() for p in folder.iterdir()} == before


class TestFile:
    def write(self, folder: Path, header: str | None) -> str:
        weights = load_file(Path(write_student(folder)) / "model.safetensors")
        save_file(weights, folder / "one.safetensors", None if header is None else {"classifier": header})
        return str(folder / "one.safetensors")

    def about(self, **more: Any) -> str:
        return json.dumps(described("convnet", 8, ["3", "7"], 16, "0" * 16) | more)

    def test_it_says_the_same_as_a_folder(self, tmp_path: Path) -> None:
        file, folder = ClassifierSpec(self.write(tmp_path, self.about())), ClassifierSpec(write_student(tmp_path))
        assert (file.class_ids, file.width, file.image_size) == (folder.class_ids, folder.width, folder.image_size)

    @pytest.mark.parametrize(
        ("header", "fields", "why"),
        [
            (
                None,
                {"architecture": "convnet", "classes": ["3", "7"]},
                "is a student, whose preprocessing is not known",
            ),
            ("{", {}, "what the header of .* says of it is no JSON"),
            (None, {}, "architecture is not given, and .*one.safetensors cannot say it"),
            ({}, {"architecture": "resnet18"}, "architecture and .*one.safetensors do not agree .resnet18 and convnet"),
            ({"width": "wide"}, {}, "one.safetensors gives width='wide', which is not a number"),
            ({"classes": ["3", "7", "9"]}, {}, "3 classes are given, but .* has a head of 2"),
        ],
    )
    def test_what_it_lacks_is_one_line(self, tmp_path: Path, header: Any, fields: dict[str, Any], why: str) -> None:
        path = self.write(tmp_path, self.about(**header) if isinstance(header, dict) else header)
        with pytest.raises(BadInput, match=why) as said:
            ClassifierSpec(path, **fields, key="teacher")
        assert "\n" not in str(said.value)


class TestOneCall:
    def asked(self, tmp_path: Path, **more: Any) -> Any:
        e = {"width": 8, "full_epochs": 1, "device": "cpu", "protocol": {"image_size": 16, "evaluations": 1}}
        return config(run_dir=str(tmp_path / "run"), evaluate=e | more)

    def test_its_file_is_accepted_as_teacher_of_a_run(
        self, tmp_path: Path, fitted: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked = self.asked(tmp_path)
        path = raydistill.train_classifier(asked)
        assert fitted == ["full data/convnet/seed0"]
        soft = asked.evaluate.model_copy(
            update={"protocol": asked.evaluate.protocol.model_copy(update={"name": "fkd"})}
        )
        update = {"evaluate": soft, "teacher": asked.teacher.model_copy(update={"path": path})}
        p = preflight.prepare(asked.model_copy(update=update))
        assert p.teacher is not None and p.teacher.class_ids == ["3", "7"]
        assert raydistill.train_classifier(asked) == path and len(fitted) == 1
        assert raydistill.train_classifier(asked, seed=1, epochs=2) != path and len(fitted) == 2

    def test_its_length_is_in_epochs_of_all_images(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        planned: list[trainer.Training] = []
        make = classifiers.planned
        monkeypatch.setattr(classifiers, "planned", lambda *args: planned.append(make(*args)) or planned[-1])
        monkeypatch.setattr(classifiers, "train", lambda *_: pytest.fail("never mind"))
        for keys, epochs in (({"full_epochs": None}, None), ({}, None), ({}, 3)):
            with pytest.raises(pytest.fail.Exception):
                raydistill.train_classifier(self.asked(tmp_path, **keys), epochs=epochs)
        assert [t.recipe.visits // t.set.images for t in planned] == [30, 1, 3]

    @pytest.mark.parametrize(
        ("more", "student", "why"),
        [
            (
                {"protocol": {"name": "fkd"}},
                "convnet",
                "trains on a teacher's labels, .* choose evaluate.protocol.name",
            ),
            ({}, "convnt", "unknown student 'convnt'; did you mean 'convnet'"),
            ({"num_gpus": 3.0}, "convnet", "evaluate.num_gpus=3 need more than the cluster's 0 GPUs"),
        ],
    )
    def test_what_cannot_be_trained_is_refused_with_nothing_written(
        self, tmp_path: Path, more: dict[str, Any], student: str, why: str
    ) -> None:
        with pytest.raises(BadInput, match=why) as said:
            raydistill.train_classifier(self.asked(tmp_path, **more), student)
        assert "\n" not in str(said.value) and not (tmp_path / "run").exists()

    def test_where_it_could_not_be_read_back_from_is_refused(self, tmp_path: Path) -> None:
        asked = self.asked(tmp_path).model_copy(update={"artifact_dir": "s3://bucket/artifacts"})
        with pytest.raises(BadInput, match="s3://bucket/artifacts is no folder, and classifiers are read from folders"):
            raydistill.train_classifier(asked)
        assert not (tmp_path / "run").exists()


def test_keeping_is_no_part_of_a_training(tiny: TinyRun) -> None:
    """What was trained without is found with, and the other way round."""
    prints: list[Callable[[], Any]] = [lambda: tiny.config, lambda: classifiers.keeping(tiny.config)]
    fingerprints = {
        trainings.trainings(c(), tiny.run, [everything(tiny)], tiny.test)[0].artifact.fingerprint for c in prints
    }
    assert len(fingerprints) == 1
