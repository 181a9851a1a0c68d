"""Classifiers of timm and torchvision: what is said of names and missing libraries, and that they are what they say."""

from __future__ import annotations

import importlib
import json
import sys
import tomllib
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from libraries import FAMILIES, MEMBERS, Small, require, stand_ins
from safetensors.torch import load_file, save_file
from samples import write_student
from tiny_run import REAL, TinyRun

from raydistill import registry
from raydistill.config import MetricsConfig
from raydistill.errors import BadInput
from raydistill.models.classifier import Classifier, ClassifierSpec
from raydistill.models.device import Placement
from raydistill.stages import runner
from raydistill.stages.evaluation import measure
from raydistill.stages.runner import serial

CPU = Placement(torch.device("cpu"), torch.float32, "cpu")
IDS = ["n1", "n2", "n3"]


@pytest.fixture
def libraries() -> Iterator[None]:
    with stand_ins():
        yield


def refusal(call: Callable[[], Any]) -> str:
    with pytest.raises(BadInput) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def save(path: Path, architecture: str) -> str:
    save_file(registry.get("classifier", architecture)(3).state_dict(), path)
    return str(path)


class TestWithoutTheLibrary:
    @pytest.mark.parametrize("family", FAMILIES)
    def test_the_line_names_the_extra(self, family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "n.safetensors"
        save_file({}, path)
        monkeypatch.setitem(sys.modules, family, None)  # as if it were not there
        said = refusal(lambda: ClassifierSpec(str(path), f"{family}:resnet18", IDS, key="teacher"))
        assert said.startswith(f"teacher.architecture: {family}:resnet18: {family} is not installed here; ")
        assert f'pip install "raydistill[{family}]"' in said

    @pytest.mark.parametrize("family", FAMILIES)
    def test_the_extra_is_there(self, family: str) -> None:
        project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
        assert any(r.startswith(family) for r in project["optional-dependencies"][family])

    def test_one_that_does_not_import_beside_this_torch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(name: str) -> types.ModuleType:
            raise RuntimeError("operator torchvision::nms\ndoes not exist")

        monkeypatch.setattr(importlib, "import_module", broken)
        said = refusal(lambda: registry.get("classifier", "timm:resnet18"))
        assert (
            "timm is installed but cannot be imported (operator torchvision::nms does not exist); install the " in said
        )


@pytest.mark.usefixtures("libraries")
class TestNames:
    @pytest.mark.parametrize(
        ("name", "near"),
        [
            ("torchvision:resnet19", "'torchvision:resnet18' or 'torchvision:resnet34'"),
            ("timm:resnet18.smal", "'timm:resnet18.small'"),
            ("timm:resnet81", "'timm:resnet18'"),
        ],
    )
    def test_an_unknown_one_is_told_the_nearest(self, name: str, near: str, tmp_path: Path) -> None:
        path = save(tmp_path / "n.safetensors", MEMBERS[0])
        said = refusal(lambda: ClassifierSpec(path, name, IDS, key="features"))
        assert said.startswith("features.architecture: ") and f"did you mean {near}" in said

    def test_networks_of_other_tasks_are_none(self, tmp_path: Path) -> None:
        assert "no classifier 'a detector'" in refusal(lambda: registry.get("classifier", "torchvision:a detector"))

    def test_families_are_named_among_what_is_known(self, tmp_path: Path) -> None:
        path = save(tmp_path / "n.safetensors", MEMBERS[0])
        for name in ("timm:", "tinn:resnet18"):
            assert "timm:NAME, torchvision:NAME" in refusal(lambda name=name: ClassifierSpec(path, name, IDS))


@pytest.mark.usefixtures("libraries")
class TestWhatTheLibrarySays:
    @pytest.mark.parametrize("name", MEMBERS)
    def test_size_and_colours_are_its_own(self, name: str, tmp_path: Path) -> None:
        spec = ClassifierSpec(save(tmp_path / "n.safetensors", name), name, IDS)
        assert (spec.image_size, spec.mean, spec.std) == (40, (0.5, 0.4, 0.3), (0.25, 0.25, 0.25))
        assert spec.identity()["architecture"] == name

    def test_of_timm_those_of_the_tag(self, tmp_path: Path) -> None:
        assert registry.get("classifier", "timm:resnet18.small").image_size == 24

    @pytest.mark.parametrize("name", MEMBERS)
    def test_a_size_that_it_cannot_take_is_refused_before_anything_runs(self, name: str, tmp_path: Path) -> None:
        path = save(tmp_path / "n.safetensors", name)
        said = refusal(lambda: ClassifierSpec(path, name, IDS, 2, key="teacher"))
        assert said.startswith(f"teacher.image_size: {name} cannot take images of 2 px (") and "; 40 is what" in said
        assert ClassifierSpec(path, name, IDS, 40, key="teacher").image_size == 40

    def test_a_folder_as_timm_writes_it_says_all_but_the_classes(self, tmp_path: Path) -> None:
        save(tmp_path / "model.safetensors", "timm:resnet18")
        data = {"tag": "small", "input_size": [3, 32, 32], "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
        about = {"architecture": "resnet18", "num_classes": 3, "pretrained_cfg": data}
        (tmp_path / "config.json").write_text(json.dumps(about))
        spec = ClassifierSpec(str(tmp_path), None, IDS)
        assert (spec.architecture, spec.image_size, spec.mean) == ("timm:resnet18.small", 32, (0.5, 0.5, 0.5))
        assert "leave classifier.architecture out" in refusal(
            lambda: ClassifierSpec(str(tmp_path), "timm:resnet18", IDS)
        )

    def test_with_a_width_it_is_a_student_that_was_trained_here(self, tmp_path: Path) -> None:
        folder = Path(write_student(tmp_path, architecture="timm:resnet18"))
        save_file(Small(2).state_dict(), folder / "model.safetensors")
        spec = ClassifierSpec(str(folder))
        assert (spec.architecture, spec.width, spec.image_size, spec.mean) == ("timm:resnet18", 8, 16, (0.5, 0.5, 0.5))
        assert Classifier(spec, CPU).features(torch.rand(2, 3, 16, 16)).shape == (2, 8)


@pytest.mark.usefixtures("libraries")
def test_a_metric_of_features_is_named_by_the_network(tmp_path: Path) -> None:
    name, tiny = "torchvision:resnet18", TinyRun(tmp_path / "run")
    tiny.network = ClassifierSpec(save(tmp_path / "n.safetensors", name), name, IDS, key="features")
    tiny.finish(["encode", "group", "embed", f"plan {REAL}", f"sample {REAL}"])
    points = {measure.LATENT: tiny.sealed("group"), name: tiny.sealed("embed")}
    config = tiny.config.model_copy(update={"metrics": MetricsConfig(names=["fid", "prdc", "wasserstein"])})
    stage = measure.stage(config, tiny.run, tiny.ref(REAL), points, tiny.network, 2)
    spaces = dict(n.split("/") for n in measure.values(runner.run(stage, serial).sealed))
    assert spaces.pop("w2_squared") == spaces.pop("w2_squared_voronoi", "latent") == "latent"
    assert spaces == dict.fromkeys(["fid", "precision", "recall", "density", "coverage"], name)


class TestThemselves:
    """The libraries' own networks, with published weights that ours are known to give the right answers with."""

    def same(
        self, name: str, built_in: str, path: Path, weights: dict[str, torch.Tensor], tmp_path: Path
    ) -> ClassifierSpec:
        file = tmp_path / "weights.safetensors"
        save_file(weights, file)
        theirs = Classifier(ClassifierSpec(str(file), name, "imagenet1k"), CPU)
        ours = Classifier(ClassifierSpec(str(path), built_in, "imagenet1k"), CPU)
        x = ours.prepare(torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0)))
        with torch.no_grad():
            for answer in (lambda net: net(x), lambda net: net.features_of(x)):
                torch.testing.assert_close(answer(theirs.net), answer(ours.net), rtol=1e-4, atol=1e-4)
        return theirs.spec

    def test_squeezenet_of_torchvision_is_ours(self, shared: Path, tmp_path: Path) -> None:
        require("torchvision")
        path = weights_of(shared, "squeezenet1_0-imagenet1k-fp16")
        spec = self.same("torchvision:squeezenet1_0", "squeezenet1_0", path, load_file(path), tmp_path)
        kind = registry.get("classifier", "squeezenet1_0")
        assert (spec.image_size, spec.mean, spec.std) == (kind.image_size, kind.mean, kind.std)

    def test_efficientnet_lite0_of_timm_is_ours(self, shared: Path, tmp_path: Path) -> None:
        timm = require("timm")
        path = weights_of(shared, "efficientnet_lite0-imagenet1k-fp16")
        published, file = registry.get("classifier", "efficientnet_lite0")(1000), load_file(path)
        theirs = timm.create_model("tf_efficientnet_lite0").state_dict()
        names = [
            [n for n in state if not n.endswith("num_batches_tracked")] for state in (theirs, published.state_dict())
        ]
        renamed = {new: file[old] for new, old in zip(*names, strict=True)}  # both lists follow the network
        spec = self.same("timm:tf_efficientnet_lite0.in1k", "efficientnet_lite0", path, renamed, tmp_path)
        assert (spec.image_size, spec.mean, spec.std) == (224, (0.5,) * 3, (0.5,) * 3)

    def test_names_of_torchvision(self) -> None:
        require("torchvision")
        said = refusal(lambda: registry.get("classifier", "torchvision:resnet19"))
        assert "did you mean 'torchvision:resnet1" in said

    def test_transformers_of_timm_take_one_size(self, tmp_path: Path) -> None:
        require("timm")
        name = "timm:vit_tiny_patch16_224"
        path = save(tmp_path / "n.safetensors", name)
        assert ClassifierSpec(path, name, IDS).image_size == 224
        assert "cannot take images of 128 px" in refusal(lambda: ClassifierSpec(path, name, IDS, 128))

    def test_names_that_are_built_off_a_tensor(self, tmp_path: Path) -> None:
        require("torchvision")
        path = save(tmp_path / "n.safetensors", "torchvision:regnet_y_400mf")
        assert ClassifierSpec(path, "torchvision:regnet_y_400mf", IDS).image_size == 224


def weights_of(shared: Path, name: str) -> Path:
    path = shared / "weights" / "classifiers" / f"{name}.safetensors"
    if not path.is_file():
        pytest.skip(f"no {path.name} in ../shared")
    return path
