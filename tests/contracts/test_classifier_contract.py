"""What every registered classifier must keep, and of a family one member. A new file is picked up by itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from libraries import MEMBERS, provided
from safetensors.torch import save_file

from raydistill import registry
from raydistill.models.classifier import Classifier, ClassifierSpec
from raydistill.models.device import Placement

CPU = Placement(torch.device("cpu"), torch.float32, "cpu")
IDS = ["n1", "n2", "n3"]

pytestmark = pytest.mark.parametrize("name", [*registry.names("classifier"), *MEMBERS])


@pytest.fixture(autouse=True)
def library(name: str) -> Iterator[None]:
    """That of a family's member: itself where it is installed, and else a stand-in."""
    with provided(name.partition(":")[0]) if ":" in name else nullcontext():
        yield


def test_a_member_of_every_family_is_held_to_it(name: str) -> None:
    assert [f"{m.partition(':')[0]}:" for m in MEMBERS] == registry.families("classifier")


def weights(name: str, classes: int = 3) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return registry.get("classifier", name)(classes).eval().state_dict()


def load(name: str, folder: Path, **cast: Any) -> Classifier:
    """From a bare file, shown images of 32 pixels."""
    file = folder / "weights.safetensors"
    save_file({k: v.to(**cast) if v.is_floating_point() else v for k, v in weights(name).items()}, file)
    return Classifier(ClassifierSpec(str(file), name, IDS, 32), CPU)


def test_its_preprocessing_is_known(name: str) -> None:
    kind = registry.get("classifier", name)
    assert type(kind.image_size) is int and kind.image_size >= 8
    assert len(kind.mean) == len(kind.std) == 3 and min(kind.std) > 0


@pytest.mark.parametrize("classes", [2, 7])
def test_a_logit_for_every_class_and_an_embedding_that_knows_no_class(name: str, classes: int) -> None:
    kind = registry.get("classifier", name)
    net = kind(classes).eval()
    with torch.no_grad():
        x = torch.randn(2, 3, kind.image_size, kind.image_size)
        logits, features = net(x), net.features_of(x)
    assert logits.shape == (2, classes) and features.ndim == 2 and len(features) == 2
    with torch.device("meta"):
        other = kind(classes + 1).eval().features_of(x.to("meta"))
    assert other.shape == features.shape


@pytest.mark.parametrize("size", [24, 32, 50])
def test_images_of_any_size(name: str, size: int, tmp_path: Path) -> None:
    net, x = load(name, tmp_path), torch.rand(2, 3, size, size)
    logits, features = net.logits(x), net.features(x)
    assert logits.shape == (2, 3) and len(features) == 2 and logits.dtype == features.dtype == torch.float32
    assert torch.equal(net.features(x), features) and torch.equal(net.logits(x), logits), "the same twice"


def test_an_image_knows_nothing_of_its_batch(name: str, tmp_path: Path) -> None:
    net, x = load(name, tmp_path), torch.rand(5, 3, 32, 32)
    torch.testing.assert_close(net.features(x)[2:3], net.features(x[2:3]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(net.logits(x)[2:3], net.logits(x[2:3]), rtol=1e-4, atol=1e-5)


def test_it_sees_centred_and_scaled_colours(name: str, tmp_path: Path) -> None:
    net, x = load(name, tmp_path), torch.rand(2, 3, 32, 32)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (net.spec.mean, net.spec.std))
    with torch.no_grad():
        torch.testing.assert_close(net.logits(x), net.net((x - mean) / std))


def test_half_precision_files_are_computed_with_in_single(name: str, tmp_path: Path) -> None:
    net = load(name, tmp_path, dtype=torch.float16)
    assert {p.dtype for p in net.net.parameters()} == {torch.float32}
    assert net.logits(torch.rand(1, 3, 32, 32)).dtype == torch.float32


def test_the_head_alone_depends_on_the_number_of_classes(name: str) -> None:
    """So that a wrong number of classes can be told from wrong weights."""
    three, four = weights(name, 3), weights(name, 4)
    assert three.keys() == four.keys()
    changed = [k for k in three if three[k].shape != four[k].shape]
    assert changed and all(three[k].shape[1:] == four[k].shape[1:] for k in changed)


def test_it_can_be_built_without_memory(name: str) -> None:
    with torch.device("meta"):
        net = registry.get("classifier", name)(3)
    assert all(p.is_meta for p in net.parameters())
