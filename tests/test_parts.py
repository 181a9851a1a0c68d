"""Images go through a student in parts that fit a CPU's caches: what that leaves as it is, and what it cannot part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from test_evaluation import CPU, SIZE, images, recipe
from torch import Tensor, nn

from raydistill.evaluation import parts
from raydistill.evaluation.cartography import of_set
from raydistill.evaluation.descent import Descent, parted
from raydistill.evaluation.optimiser import optimiser
from raydistill.evaluation.parts import ALL, MAP_BYTES, at_once
from raydistill.evaluation.score import PLAIN, examine
from raydistill.evaluation.train import Student
from raydistill.models.device import mixed


def batch(size: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    """Images, soft targets and unequal weights."""
    rng = torch.Generator().manual_seed(0)
    x, target = torch.randn(size, 3, SIZE, SIZE, generator=rng), torch.rand(size, 2, generator=rng).softmax(1)
    return x, target, torch.linspace(0.5, 1.5, size)


def step(part: int, steps: int = 1) -> tuple[list[Tensor], list[float]]:
    """Parameters and losses after some steps in float64, but for the losses', `part` images at a time."""
    net = Student("convnet", 8, 2, 0).build(SIZE).double()
    asked = replace(recipe(), labels="stored")
    descent = Descent(net, optimiser(net, asked), asked, PLAIN, part, twice=False)
    x, target, weight = batch()
    losses = [float(descent.step(x.double(), target, weight)) for _ in range(steps)]
    return [p.detach().clone() for p in net.parameters()], losses


@pytest.mark.parametrize("part", [1, 5, 8, 15])
def test_the_gradient_of_a_batch_is_that_of_its_parts_together(part: int) -> None:
    """Weighted, by soft labels, and where the last part is smaller: one step and three."""
    for steps in (1, 3):
        (whole, losses), (parted, same) = step(16, steps=steps), step(part, steps=steps)
        assert same == pytest.approx(losses, rel=1e-6)
        for p, q in zip(whole, parted, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-7)


def test_a_batch_in_one_part_has_the_bits_of_a_plain_step() -> None:
    net, twin = (Student("convnet", 8, 2, 0).build(SIZE) for _ in range(2))
    asked = recipe()
    x, target, weight = batch()
    Descent(net, optimiser(net, asked), asked, PLAIN, ALL, twice=False).step(x, target, weight)
    (nn.functional.cross_entropy(twin(x), target, reduction="none") * weight).mean().backward()
    optimiser(twin, asked).step()
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), twin.parameters(), strict=True))


@pytest.mark.parametrize(("arithmetic", "size"), [("float32", 4), ("bfloat16", 2)])
def test_a_part_is_as_many_images_as_the_largest_map_leaves_room_for(arithmetic: str, size: int) -> None:
    """A ConvNet's is its first: `width` channels of the image's own size."""
    for width, side in ((64, 64), (128, 32), (128, 64)):
        net = Student("convnet", width, 10, 0).build(side)
        assert at_once(net, side, CPU, mixed(arithmetic, CPU)) == MAP_BYTES // (width * side**2 * size)
    assert at_once(net, 64, torch.device("meta"), PLAIN) == ALL, "elsewhere than on a CPU all at once"


def test_asking_leaves_the_network_and_the_dice_as_they_were() -> None:
    net = Student("alexnet", 8, 2, 0).build(32)
    before, dice = [p.clone() for p in net.state_dict().values()], torch.get_rng_state()
    assert at_once(net, 32, CPU, PLAIN) > 1 and net.training
    assert all(map(torch.equal, before, net.state_dict().values())) and torch.equal(dice, torch.get_rng_state())
    assert not any(m._forward_hooks for m in net.modules())


def test_a_network_with_statistics_of_batches_learns_from_whole_ones() -> None:
    """The others of the registry in parts."""
    asked = replace(recipe(), image_size=32)
    for name, whole in (("convnet_bn", True), ("resnet18_bn", True), ("convnet", False), ("resnet18", False)):
        net = Student(name, 8, 2, 0).build(32)
        descent = Descent.of(net, optimiser(net, asked), asked, PLAIN, CPU)
        assert (descent.part == ALL) is whole, name


def test_a_training_is_another_one_only_where_its_batches_are_parted() -> None:
    """The digits' students, and those with statistics of batches, are those of before."""
    dice = torch.get_rng_state()
    assert parted("convnet", 64, 10, 64, "bfloat16", 17) and not parted("convnet", 64, 10, 64, "bfloat16", 16)
    assert parted("convnet", 64, 10, 64, "float32", 9) and not parted("convnet", 32, 10, 32, "float32", 64)
    assert not parted("convnet_bn", 64, 10, 64, "float32", 64) and torch.equal(dice, torch.get_rng_state())


def cut(monkeypatch: pytest.MonkeyPatch, images_at_once: int) -> None:
    for module in ("score", "cartography"):
        monkeypatch.setattr(f"raydistill.evaluation.{module}.at_once", lambda *_: images_at_once)


@pytest.mark.parametrize("network", ["convnet", "convnet_bn"])
def test_what_is_shown_in_parts_is_answered_with_the_same_bits(monkeypatch: pytest.MonkeyPatch, network: str) -> None:
    net, shown = Student(network, 8, 2, 0).build(SIZE), images(61)
    looked: list[Callable[[], Tensor]] = [lambda: of_set(net, shown, PLAIN), lambda: examine(net, shown, 2).right]
    for look in looked:
        cut(monkeypatch, 61)
        whole = look()
        cut(monkeypatch, 16)
        assert torch.equal(look(), whole)
    assert parts.MAP_BYTES == 2**23
