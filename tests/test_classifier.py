"""Classifiers: what is refused before weights are loaded, what features and logits are, and the pretrained ones."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file
from samples import write_student

from raydistill import registry
from raydistill.config import class_list
from raydistill.errors import BadInput, StageFailed
from raydistill.models.classifier import Classifier, ClassifierSpec, class_columns
from raydistill.models.device import Placement
from raydistill.sources.images import decode

CPU = Placement(torch.device("cpu"), torch.float32, "cpu")
IDS = ["n1", "n2", "n3"]


def save(path: Path, architecture: str = "resnet20_cifar10", classes: int = 3, **cast: Any) -> str:
    """A bare file with fresh weights."""
    torch.manual_seed(0)
    weights = registry.get("classifier", architecture)(classes).state_dict()
    save_file({k: v.to(**cast) if v.is_floating_point() else v for k, v in weights.items()}, path)
    return str(path)


def refusal(path: str | Path, *args: Any, **more: Any) -> str:
    with pytest.raises(BadInput) as caught:
        ClassifierSpec(str(path), *args, **more)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestWhatIsRefused:
    """One line that names the key, before any weight is read."""

    def test_nothing_there(self, tmp_path: Path) -> None:
        said = refusal(tmp_path / "x.safetensors", "resnet20_cifar10", IDS, key="features")
        assert said.startswith("features.path: ") and "is not there" in said
        (tmp_path / "empty").mkdir()
        assert "holds no model.safetensors" in refusal(tmp_path / "empty")

    def test_pickles_unopened(self, tmp_path: Path) -> None:
        (tmp_path / "net.pth").write_bytes(b"\x80")
        assert "net.pth is a pickle" in refusal(tmp_path / "net.pth", "resnet20_cifar10", IDS)
        assert "net.pth is a pickle" in refusal(tmp_path)

    def test_a_torn_file(self, tmp_path: Path) -> None:
        path = Path(save(tmp_path / "n.safetensors"))
        path.write_bytes(path.read_bytes()[:-100])
        assert "not a whole safetensors file" in refusal(path, "resnet20_cifar10", IDS)

    def test_what_a_bare_file_cannot_say(self, tmp_path: Path) -> None:
        path = save(tmp_path / "n.safetensors")
        assert "classifier.architecture is not given" in refusal(path, None, IDS)
        assert "classifier.classes is not given" in refusal(path, "resnet20_cifar10")
        assert "convnet is a student" in refusal(path, "convnet", IDS)

    def test_an_unknown_architecture_is_told_the_nearest(self, tmp_path: Path) -> None:
        path = save(tmp_path / "n.safetensors")
        assert "did you mean 'resnet20_cifar10'?" in refusal(path, "resnet20_cifar", IDS)
        assert "did you mean 'convnet'?" in refusal(path, "convnets", IDS)

    @pytest.mark.parametrize(
        ("classes", "why"),
        [
            (IDS[:2], "2 classes are given, but .* has a head of 3"),
            (["a", "b", "a"], "class 'a' is listed twice"),
            ([], "no class is given"),
            ("imagenete", "no class list 'imagenete'; did you mean 'imagenette'"),
            ("imagenette", "10 classes are given, but .* has a head of 3"),
        ],
    )
    def test_classes_that_do_not_fit(self, tmp_path: Path, classes: Any, why: str) -> None:
        said = refusal(save(tmp_path / "n.safetensors"), "resnet20_cifar10", classes)
        assert said.startswith("classifier.classes: ") and re.search(why, said)

    def test_weights_of_another_network(self, tmp_path: Path) -> None:
        path = save(tmp_path / "n.safetensors")
        assert "does not fit squeezenet1_0: it has no " in refusal(path, "squeezenet1_0", IDS)
        assert "does not fit resnet32_cifar10: it has no layer1.3" in refusal(path, "resnet32_cifar10", IDS)
        more = save(tmp_path / "m.safetensors", "resnet32_cifar10")
        assert "it has layer1.3.bn1.bias, " in refusal(more, "resnet20_cifar10", IDS)
        assert "has shape" in refusal(write_student(tmp_path / "s", width=16))

    @pytest.mark.parametrize(
        ("more", "why"),
        [
            ({"architecture": None}, "classifier.architecture is not given"),
            ({"width": None}, "gives width=None"),
            ({"mean": None}, "gives mean=None; it must list three numbers"),
            ({"std": [0.25, 0.25]}, "it must list three numbers"),
            ({"std": [0.25, 0.25, 10**400]}, "it must list three numbers"),
            ({"std": [0.25, 0.25, 0]}, "each must be positive"),
            ({"image_size": 4}, "convnet cannot be built"),
            ({"image_size": 32}, "does not fit convnet"),
            ({"classes": {"a": 1}}, "neither a list of ids nor the name"),
        ],
    )
    def test_a_folder_that_does_not_say_what_it_is(self, tmp_path: Path, more: dict[str, Any], why: str) -> None:
        assert why in refusal(write_student(tmp_path / "s", **more))

    def test_two_that_contradict(self, tmp_path: Path) -> None:
        path = write_student(tmp_path / "s")
        assert "do not agree (resnet20_cifar10 and convnet)" in refusal(path, "resnet20_cifar10")
        assert "classifier.classes and " in refusal(path, None, ["7", "3"])
        ClassifierSpec(path, "convnet", ["3", "7"])


class TestClasses:
    def test_they_are_found_by_id_never_by_position(self, tmp_path: Path) -> None:
        spec = ClassifierSpec(save(tmp_path / "n.safetensors"), "resnet20_cifar10", IDS)
        columns = class_columns(spec, ["n3", "n1"])
        assert columns.tolist() == [2, 0] and columns.dtype == np.int64
        with pytest.raises(BadInput, match="class 'n9' is not one of the 3 classes of the classifier classifier"):
            class_columns(spec, ["n1", "n9", "n8"])

    def test_a_list_by_name(self, tmp_path: Path) -> None:
        path = save(tmp_path / "n.safetensors", classes=10)
        assert ClassifierSpec(path, "resnet20_cifar10", "imagenette").class_ids[0] == "n01440764"


class TestIdentity:
    def test_it_follows_the_content_and_knows_no_place(self, tmp_path: Path) -> None:
        one, two = (ClassifierSpec(save(tmp_path / n), "resnet20_cifar10", IDS) for n in ("a.safetensors", "b.st"))
        assert one.identity() == two.identity()
        assert json.loads(json.dumps(one.identity()))["architecture"] == "resnet20_cifar10"
        others = [
            ClassifierSpec(save(tmp_path / "c", dtype=torch.float16), "resnet20_cifar10", IDS),
            ClassifierSpec(str(one.path), "resnet20_cifar10", IDS[::-1]),
            ClassifierSpec(str(one.path), "resnet20_cifar10", IDS, 48),
        ]
        assert all(o.identity() != one.identity() for o in others)


class TestStudents:
    """A student that was saved comes in by the same door."""

    def test_it_answers_as_it_did(self, tmp_path: Path) -> None:
        net = Classifier(ClassifierSpec(write_student(tmp_path / "s")), CPU)
        torch.manual_seed(0)
        student = registry.get("student", "convnet")(2, 16, 8)
        x = torch.rand(2, 3, 16, 16)
        with torch.inference_mode():
            torch.testing.assert_close(net.logits(x), student((x - 0.5) / 0.25))
        features = net.features(x)
        assert features.shape == (2, 8 * 16), "what the last linear layer is given"
        torch.testing.assert_close(student.head(features), net.logits(x))

    def test_what_is_not_finite_is_told(self, tmp_path: Path) -> None:
        net = Classifier(ClassifierSpec(write_student(tmp_path / "s")), CPU)
        with pytest.raises(StageFailed, match=r"classifier: .* gave a non-finite result"):
            net.logits(torch.full((1, 3, 16, 16), float("nan")))


class TestResize:
    def test_flat_colours_stay_and_nothing_leaves_the_range(self, tmp_path: Path) -> None:
        net = Classifier(ClassifierSpec(write_student(tmp_path / "s", mean=[0, 0, 0], std=[1, 1, 1])), CPU)
        flat = torch.tensor([0.2, 0.5, 1.0]).view(1, 3, 1, 1).expand(1, 3, 40, 40)
        torch.testing.assert_close(net.prepare(flat), flat[..., :16, :16], rtol=0, atol=1e-6)
        checks = (torch.rand(1, 3, 9, 9) > 0.5).float()
        assert net.prepare(checks).min() >= 0 and net.prepare(checks).max() <= 1
        same = torch.rand(1, 3, 16, 16)
        assert torch.equal(net.prepare(same), same), "what has the size already is not touched"

    def test_it_averages_what_it_shrinks(self, tmp_path: Path) -> None:
        """Without antialiasing, stripes of one pixel would come out as stripes."""
        net = Classifier(ClassifierSpec(write_student(tmp_path / "s", mean=[0, 0, 0], std=[1, 1, 1])), CPU)
        stripes = (torch.arange(128) % 2).float().expand(1, 3, 128, 128)
        assert (net.prepare(stripes)[..., 2:-2] - 0.5).abs().max() < 0.02


Photos = Callable[[str, int, int], tuple[torch.Tensor, list[str]]]


@pytest.fixture
def photos(shared: Path) -> Photos:
    """photos(set, size, count): validation images, float32 (n, 3, size, size), and their class ids."""

    def load(name: str, size: int, count: int) -> tuple[torch.Tensor, list[str]]:
        folder = shared / "data" / name
        if not folder.is_dir():
            pytest.skip(f"no {name} in ../shared")
        ids = json.loads((folder / "classes.json").read_text())["dirs"]
        rows = next(pq.ParquetFile(next(folder.glob("val-*.parquet"))).iter_batches(count))
        pixels = np.stack([decode(i["bytes"], size, 10**7) for i in rows["image"].to_pylist()])
        x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
        return x, [ids[label] for label in rows["label"].to_pylist()]

    return load


class TestPretrained:
    """Published weights recognise photographs: weights, preprocessing and the order of classes are all right."""

    def net(self, shared: Path, file: str, architecture: str) -> Classifier:
        path = shared / "weights" / "classifiers" / file
        if not path.is_file():
            pytest.skip(f"no {file} in ../shared")
        return Classifier(ClassifierSpec(str(path), architecture, "imagenet1k"), CPU)

    def accuracy(self, net: Classifier, x: torch.Tensor, truth: list[str]) -> float:
        """Among the ten classes of ImageNette."""
        ids = class_list("imagenette")
        logits = torch.cat([net.logits(part) for part in x.split(25)])[:, class_columns(net.spec, ids)]
        return float(np.mean([ids[i] == t for i, t in zip(logits.argmax(1), truth, strict=True)]))

    def test_squeezenet_on_imagenette(self, shared: Path, photos: Photos) -> None:
        net = self.net(shared, "squeezenet1_0-imagenet1k-fp16.safetensors", "squeezenet1_0")
        x, truth = photos("imagenette-224", 224, 100)
        assert self.accuracy(net, x, truth) >= 0.9, "94.7 % on all of them"
        assert sum(p.numel() for p in net.net.parameters()) == 1_248_424
        assert net.features(x[:2]).shape == (2, 512)

    def test_efficientnet_on_imagenette(self, shared: Path, photos: Photos) -> None:
        net = self.net(shared, "efficientnet_lite0-imagenet1k-fp16.safetensors", "efficientnet_lite0")
        x, truth = photos("imagenette-224", 224, 25)
        assert self.accuracy(net, x, truth) >= 0.96, "99.3 % of the first 400"
        assert sum(p.numel() for p in net.net.parameters()) == 4_652_008
        assert net.features(x[:2]).shape == (2, 1280)

    @pytest.mark.parametrize(("depth", "least"), [(20, 0.72), (56, 0.74)])
    def test_resnets_on_cifar(self, shared: Path, photos: Photos, depth: int, least: float) -> None:
        path = shared / "weights" / "classifiers" / f"resnet{depth}-cifar10.safetensors"
        if not path.is_file():
            pytest.skip("no CIFAR ResNets in ../shared")
        x, truth = photos("cifar10-jpg", 32, 200)
        ids = sorted(set(truth))
        net = Classifier(ClassifierSpec(str(path), f"resnet{depth}_cifar10", ids), CPU)
        accuracy = np.mean([ids[i] == t for i, t in zip(net.logits(x).argmax(1), truth, strict=True)])
        assert accuracy >= least, "81.1 % and 82.9 % on all of them"
