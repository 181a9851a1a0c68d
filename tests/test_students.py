"""The students are the papers' networks: parameters counted by hand, maps, stems, and what a batch may not mix."""

from __future__ import annotations

import itertools
import sys
import types
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from raydistill import registry
from raydistill.errors import BadInput
from raydistill.evaluation.students import pooling, resnetap10
from raydistill.evaluation.students.convnet import ConvNet
from raydistill.evaluation.students.pooling import relu_avg_pool

PAPER = 128


def build(name: str, classes: int, size: int, width: int = PAPER) -> nn.Module:
    with torch.device("meta"):
        return registry.get("student", name)(classes, size, width)


def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def conv(inputs: int, outputs: int, kernel: int = 3, bias: bool = True) -> int:
    return inputs * outputs * kernel**2 + outputs * bias


def linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def convnet(blocks: int, side: int, classes: int, width: int = PAPER) -> int:
    """n convolutions with bias, a scale and a shift a channel, the flattened map to classes."""
    return (
        conv(3, width) + (blocks - 1) * conv(width, width) + blocks * 2 * width + linear(width * side * side, classes)
    )


def resnet(blocks: int, kernel: int, classes: int, base: int = 64) -> int:
    """A ResNet of basic blocks without biases: `blocks` a stage, a conv1x1 where the channels change."""
    total = conv(3, base, kernel, bias=False) + 2 * base
    for stage in range(4):
        wide = base << stage
        narrow = wide // 2 if stage else wide
        total += conv(narrow, wide, bias=False) + (2 * blocks - 1) * conv(wide, wide, bias=False) + 4 * blocks * wide
        total += conv(narrow, wide, 1, bias=False) + 2 * wide if stage else 0
    return total + linear(8 * base, classes)


class TestConvNet:
    @pytest.mark.parametrize(
        ("size", "blocks", "side"),
        [
            (8, 1, 4),
            (16, 2, 4),
            (32, 3, 4),
            (64, 4, 4),
            (128, 5, 4),
            (256, 6, 4),
            (28, 3, 3),
            (96, 5, 3),
            (224, 6, 3),
        ],
    )
    def test_its_depth_goes_by_the_image_size(self, size: int, blocks: int, side: int) -> None:
        net = build("convnet", 10, size)
        assert sum(isinstance(m, nn.Conv2d) for m in net.modules()) == blocks
        assert net.head.in_features == PAPER * side * side
        assert parameters(net) == convnet(blocks, side, 10)

    def test_the_counts_of_the_papers(self) -> None:
        assert parameters(build("convnet", 10, 32)) == 320_010  # ConvNet-3 on CIFAR-10
        assert build("convnet", 10, 224).head.in_features == 1152  # ConvNet-6 at 224 px

    def test_the_order_of_its_random_numbers_is_kept(self) -> None:
        """Results in the README were made with it: convolutions first, in order, then the head, torch's own init."""
        torch.manual_seed(7)
        net = ConvNet(10, 32, 16)
        torch.manual_seed(7)
        expected = [nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3), nn.Conv2d(16, 16, 3), nn.Linear(256, 10)]
        layers = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        for one, other in zip(layers, expected, strict=True):
            assert torch.equal(one.weight, other.weight) and torch.equal(one.bias, other.bias)


class TestPooling:
    @pytest.mark.parametrize("shape", [(3, 4, 8, 6), (2, 3, 7, 8), (1, 1, 2, 2)])
    def test_values_and_gradients_have_the_bits_of_pytorchs_own(self, shape: tuple[int, ...]) -> None:
        x = torch.randn(shape)
        x.view(-1)[::3] = 0  # where the gradient of relu is 0, not 1 or a half
        inputs, expected = x.clone().requires_grad_(), x.clone().requires_grad_()
        mine, theirs = relu_avg_pool(inputs), F.avg_pool2d(F.relu(expected), 2)
        push = torch.randn_like(theirs)
        mine.backward(push)
        theirs.backward(push)
        assert torch.equal(mine, theirs) and torch.equal(inputs.grad, expected.grad)
        with torch.inference_mode():
            assert torch.equal(relu_avg_pool(x), theirs)

    @pytest.mark.parametrize(("name", "size"), [("convnet", 32), ("resnetap10", 32)])
    def test_a_step_of_a_student_is_what_it_is_with_pytorchs_own(self, name, size, monkeypatch) -> None:
        def step() -> list[torch.Tensor]:
            torch.manual_seed(3)
            net = registry.get("student", name)(10, size, 16)
            net(torch.randn(4, 3, size, size)).square().mean().backward()
            return [p.grad for p in net.parameters()]

        mine = step()
        monkeypatch.setattr(resnetap10, "relu_avg_pool", lambda x: F.avg_pool2d(F.relu(x), 2))
        monkeypatch.setattr(pooling.ReluAvgPool, "forward", lambda self, x: F.avg_pool2d(F.relu(x), 2))
        assert all(torch.equal(a, b) for a, b in zip(mine, step(), strict=True))


class TestCounts:
    @pytest.mark.parametrize(("size", "kernel"), [(32, 3), (64, 3), (128, 3), (224, 7), (256, 7)])
    def test_resnets(self, size: int, kernel: int) -> None:
        assert parameters(build("resnet18", 10, size)) == resnet(2, kernel, 10)
        assert parameters(build("resnetap10", 10, size)) == resnet(1, kernel, 10)

    def test_batch_norm_has_as_many_scales_and_shifts(self) -> None:
        for name, size in itertools.product(("convnet", "resnet18"), (32, 64, 224)):
            assert parameters(build(f"{name}_bn", 10, size)) == parameters(build(name, 10, size))

    @pytest.mark.parametrize(("size", "kernel"), [(32, 3), (64, 3), (128, 7), (224, 7)])
    def test_the_stem_of_resnet18_bn_is_cifars_or_imagenets(self, size: int, kernel: int) -> None:
        net = build("resnet18_bn", 10, size)
        assert parameters(net) == resnet(2, kernel, 10)
        assert any(isinstance(m, nn.MaxPool2d) for m in net.modules()) == (size > 64)

    def test_resnetap10_of_cifar_has_half_the_channels(self) -> None:
        assert parameters(build("resnetap10_cifar", 10, 32)) == resnet(1, 3, 10, base=32)

    def test_resnet18_is_the_known_one(self) -> None:
        assert parameters(build("resnet18", 10, 32)) == 11_173_962  # the CIFAR form
        assert parameters(build("resnet18", 1000, 224)) == 11_689_512  # the ImageNet form: its published 11.69 million
        assert parameters(build("resnet18_bn", 1000, 224)) == 11_689_512

    def test_vgg11_and_alexnet_are_the_benchmarks(self) -> None:
        """VGG-11: 9,231,114 with one linear layer at 32 px. AlexNet: convolutions of 128, 192, 256, 192, 192."""
        assert parameters(build("vgg11", 10, 32)) == 9_231_114
        assert build("vgg11", 10, 224).head.in_features == 512 * 7 * 7
        counted = (
            conv(3, 128, 5)
            + conv(128, 192, 5)
            + conv(192, 256)
            + conv(256, 192)
            + conv(192, 192)
            + linear(192 * 4 * 4, 10)
        )
        assert parameters(build("alexnet", 10, 32)) == counted == 1_872_202

    @pytest.mark.parametrize("name", ["resnet18", "resnetap10", "vgg11", "alexnet"])
    def test_width_scales_every_layer(self, name: str) -> None:
        half = [m.out_channels for m in build(name, 10, 64, 64).modules() if isinstance(m, nn.Conv2d)]
        whole = [m.out_channels for m in build(name, 10, 64, 128).modules() if isinstance(m, nn.Conv2d)]
        assert [2 * c for c in half] == whole


class TestResNetAP:
    def test_nothing_in_it_has_a_stride_but_poolings(self) -> None:
        for size in (32, 128, 224):
            net = build("resnetap10", 10, size)
            assert all(m.stride == (1, 1) for m in net.modules() if isinstance(m, nn.Conv2d))

    @pytest.mark.parametrize(("size", "side"), [(32, 4), (64, 8), (128, 8), (224, 7), (256, 8)])
    def test_the_last_map(self, size: int, side: int) -> None:
        """Three poolings by 2; before them none up to 64 px, by 2 up to 128 px, by 4 beyond."""
        for name in ("resnetap10", "resnet18"):
            net = registry.get("student", name)(3, size, 8)
            assert net.blocks(net.stem(torch.zeros(1, 3, size, size))).shape[2:] == (side, side)


@pytest.mark.parametrize("name", ["convnet", "resnet18", "resnetap10", "resnetap10_cifar", "vgg11", "alexnet"])
def test_images_do_not_see_each_other_in_training(name: str) -> None:
    """Instance norm, or none: unlike batch norm, the logits of an image do not depend on its batch in train mode."""
    torch.manual_seed(0)
    net = registry.get("student", name)(4, 32, 16).train()
    x = torch.randn(3, 3, 32, 32)
    others = torch.cat([x[:1], 5 * torch.randn(2, 3, 32, 32)])
    torch.testing.assert_close(net(x)[0], net(others)[0], rtol=1e-4, atol=1e-5)
    assert not list(net.buffers()), "running statistics would be another way to see other images"


class TestTimm:
    """timm does not import beside the CPU build of torch here: a stand-in records what the student asks of it."""

    @pytest.fixture
    def asked(self, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
        asked: list[dict[str, Any]] = []

        def create_model(name: str, **more: Any) -> nn.Module:
            asked.append({"name": name, **more})
            if more.get("img_size") == 33:
                raise AssertionError("33 is not a\nmultiple of 16")
            return nn.Sequential(nn.Flatten(), nn.LazyLinear(more["num_classes"]))

        fake = types.ModuleType("timm")
        fake.create_model = create_model  # type: ignore[attr-defined]
        fake.is_model = lambda name: name in ("resnet18", "vit_tiny_patch16_224")  # type: ignore[attr-defined]
        fake.get_pretrained_cfg_value = (  # type: ignore[attr-defined]
            lambda name, key: key == "fixed_input_size" and name.startswith("vit")
        )
        monkeypatch.setitem(sys.modules, "timm", fake)
        return asked

    def test_a_network_is_untrained_and_has_the_classes(self, asked: list[dict[str, Any]]) -> None:
        net = registry.get("student", "timm:resnet18")(7, 32, 64)
        assert asked == [{"name": "resnet18", "pretrained": False, "num_classes": 7}]
        assert net(torch.zeros(2, 3, 32, 32)).shape == (2, 7)

    def test_a_transformer_is_told_the_size(self, asked: list[dict[str, Any]]) -> None:
        registry.get("student", "timm:vit_tiny_patch16_224")(7, 64, 64)
        assert asked == [{"name": "vit_tiny_patch16_224", "pretrained": False, "num_classes": 7, "img_size": 64}]

    def test_what_it_cannot_do_is_one_line(self, asked: list[dict[str, Any]]) -> None:
        with pytest.raises(BadInput, match="timm has no such model"):
            registry.get("student", "timm:resnet19")(7, 32, 64)
        with pytest.raises(BadInput, match=r"image_size=33: 33 is not a multiple of 16;") as caught:
            registry.get("student", "timm:vit_tiny_patch16_224")(7, 33, 64)
        assert "\n" not in str(caught.value)

    def test_without_timm_the_line_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "timm", None)
        student = registry.get("student", "timm:resnet18")
        with pytest.raises(BadInput, match=r'pip install "raydistill\[timm\]"'):
            student(7, 32, 64)

    def test_the_family_is_no_student_itself(self) -> None:
        assert "timm:" not in registry.names("student")
        for name in ("timm:", "timm", "tinn:resnet18"):
            with pytest.raises(BadInput, match="timm:NAME"):
                registry.get("student", name)
