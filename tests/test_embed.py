"""Features of the training images: whose they are, what they depend on, and methods that choose by them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from samples import write_student
from tiny_run import TinyRun, config

from raydistill.clustering.selection import herding, kcenter
from raydistill.errors import BadInput, StageFailed
from raydistill.methods.base import ClassView
from raydistill.models.classifier import Classifier, ClassifierSpec, unit_images
from raydistill.models.device import Placement
from raydistill.pipeline.features import by_features
from raydistill.pipeline.preflight import prepare
from raydistill.sources.base import open_source
from raydistill.sources.images import decode
from raydistill.stages import runner
from raydistill.stages.runner import serial
from raydistill.store import schemas

CPU = Placement(torch.device("cpu"), torch.float32, "cpu")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """A run that has its features; never written to by a test but for plans."""
    run = TinyRun(tmp_path_factory.mktemp("tiny") / "run")
    run.finish(["encode", "group", "embed"])
    return run


def features(tiny: TinyRun) -> dict[str, np.ndarray]:
    """Image id -> feature."""
    table = tiny.sealed("embed").read()
    return dict(zip(table["image_id"].to_pylist(), schemas.tensor_numpy(table["feature"]), strict=True))


class TestFeatures:
    def test_they_are_those_of_the_images_as_encoding_saw_them(self, tiny: TinyRun) -> None:
        network = Classifier(tiny.network, CPU)
        embedded = features(tiny)
        assert sorted(embedded) == sorted(tiny.train.ids.to_pylist())
        data = open_source(tiny.config.source).read("train", list(embedded))
        pixels = np.stack([decode(d, 32, 10**6) for d in data])
        expected = network.features(unit_images(pixels)).numpy()
        np.testing.assert_allclose(np.stack(list(embedded.values())), expected, rtol=1e-4, atol=1e-5)
        assert expected.shape == (21, 128) and expected.std(0).max() > 0

    def test_rows_and_row_groups_are_those_of_the_classes(self, tiny: TinyRun) -> None:
        classes, embedded = tiny.sealed("group"), tiny.sealed("embed")
        columns = ["image_id", "class_index"]
        assert [r.key for r in embedded.records] == [r.key for r in classes.records]
        for mine, theirs in zip(embedded.records, classes.records, strict=True):
            assert embedded.table(mine.key, columns) == classes.table(theirs.key, columns)
            assert mine.meta == {k: theirs.meta[k] for k in ("classes", "counts")}
            for group, (index, count) in enumerate(zip(mine.meta["classes"], mine.meta["counts"], strict=True)):
                part = embedded.artifact.read_table(mine, group)
                assert part["class_index"].to_pylist() == [index] * count

    def test_their_identity_is_that_of_network_images_and_batch(self, tiny: TinyRun, tmp_path: Path) -> None:
        def name(**more: object) -> str:
            other = TinyRun(tiny.root)
            for key, value in more.items():
                setattr(other, key, value)
            return other.stage("embed").artifact.fingerprint

        again = ClassifierSpec(write_student(tmp_path / "elsewhere"), key="features")
        assert name() == name(network=again) == tiny.stage("embed").artifact.fingerprint
        shown = ClassifierSpec(write_student(tmp_path / "other", mean=[0.4] * 3), key="features")
        batch = config(embed={"batch": 5, "device": "cpu"})
        assert len({name(), name(network=shown), name(config=batch)}) == 3
        assert name(config=config(embed={"batch": 4, "actors": 3, "deadline_s": 5.0})) == name()

    def test_an_image_that_broke_since_is_named(self, tiny: TinyRun, tmp_path: Path, monkeypatch) -> None:
        stage = tiny.stage("embed")
        stage.artifact.location = tiny.run.root / "nowhere"
        monkeypatch.setattr("raydistill.sources.digits.Digits.read", lambda self, split, ids: (b"gone" for _ in ids))
        with pytest.raises(StageFailed, match=r"embed: image \S+ could be used when it was encoded and cannot now"):
            runner.run(stage, serial)


class TestSelection:
    @pytest.mark.parametrize(("name", "choose"), [("herding", herding), ("kcenter", kcenter)])
    def test_methods_choose_by_them(self, tiny: TinyRun, name: str, choose) -> None:
        plan = tiny.finish([f"plan {name}"])[f"plan {name}"]
        rows = tiny.stage(f"plan {name}").artifact.read_table(plan.records[0]).to_pylist()
        embedded = features(tiny)
        label = dict(zip(tiny.train.ids.to_pylist(), tiny.train.labels.tolist(), strict=True))
        for index in range(2):
            ids = sorted(i for i in embedded if label[i] == index)
            expected = [ids[i] for i in choose(np.stack([embedded[i] for i in ids]), 3)]
            assert [r["image_id"] for r in rows if r["class_index"] == index] == expected

    def test_the_space_is_part_of_the_identity_of_what_depends_on_it_alone(self, tiny: TinyRun) -> None:
        tiny.finish(["cluster"])
        plain = TinyRun(tiny.root)
        plain.config = config()
        for name, moved in (("herding", True), ("kcenter", True), ("random", False), ("mgd3", False)):
            two = {t.stage(f"plan {name}").artifact.fingerprint for t in (tiny, plain)}
            assert len(two) == 1 + moved, name

    def test_points_are_the_features_where_there_are_any(self) -> None:
        latents, embedded = np.ones((2, 4, 2, 2), np.float16), np.zeros((2, 7), np.float32)
        none = np.zeros((0, 4, 2, 2), np.float32)
        assert ClassView("n01", ["a", "b"], none, np.zeros(0), [], latents).points.shape == (2, 16)
        assert ClassView("n01", ["a", "b"], none, np.zeros(0), [], latents, embedded).points is embedded

    def test_without_a_network_they_are_refused_before_any_work(self, tmp_path: Path) -> None:
        asked = config(method="herding", selection={"space": "feature"}, run_dir=str(tmp_path / "run"))
        with pytest.raises(BadInput, match=r"selection\.space=feature needs a network: give features\.path"):
            prepare(asked)
        wrong = config(features={"path": str(tmp_path / "no.safetensors")}, run_dir=str(tmp_path / "run"))
        with pytest.raises(BadInput, match=r"features\.path: .*no\.safetensors is not there"):
            prepare(wrong)
        assert not (tmp_path / "run").exists()

    def test_features_are_computed_only_if_a_method_looks_at_them(self, tiny: TinyRun, tmp_path: Path) -> None:
        network = {"path": str(tiny.network.path)}
        for method, space, wanted in (
            ("herding", "feature", True),
            ("herding", "latent", False),
            ("mgd3", "feature", False),
        ):
            asked = config(method=method, selection={"space": space}, features=network, run_dir=str(tmp_path / "run"))
            assert by_features(prepare(asked).variants[0]) == wanted
