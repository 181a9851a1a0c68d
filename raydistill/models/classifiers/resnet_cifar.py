"""The ResNets that He et al. (2016, section 4.2) trained on CIFAR-10: 6 n + 2 layers, shortcuts without parameters."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from raydistill.registry import register


class CifarBlock(nn.Module):
    """Two 3x3 convolutions; the shortcut drops every other pixel and pads channels with zeros (option A)."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.stride, self.pad = stride, (width - inputs) // 2

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        if self.pad:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.pad, self.pad))
        return (x + y).relu()


class CifarResNet(nn.Module):
    """Widths 16, 32, 64 over three stages. Weight names conv1, bn1, layer{1,2,3}.{i}, linear. Embedding (B, 64)."""

    image_size = 32
    mean = (0.485, 0.456, 0.406)
    std = (0.229, 0.224, 0.225)
    depth: int  # 6 n + 2

    def __init__(self, classes: int) -> None:
        super().__init__()
        n = (self.depth - 2) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*[CifarBlock(16, 16, 1) for _ in range(n)])
        self.layer2 = nn.Sequential(CifarBlock(16, 32, 2), *[CifarBlock(32, 32, 1) for _ in range(n - 1)])
        self.layer3 = nn.Sequential(CifarBlock(32, 64, 2), *[CifarBlock(64, 64, 1) for _ in range(n - 1)])
        self.linear = nn.Linear(64, classes)

    def features_of(self, x: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, 64)."""
        x = self.bn1(self.conv1(x)).relu()
        return self.layer3(self.layer2(self.layer1(x))).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, S, S) -> logits (B, classes)."""
        return self.linear(self.features_of(x))


@register("classifier", "resnet20_cifar10")
class ResNet20(CifarResNet):
    depth = 20


@register("classifier", "resnet32_cifar10")
class ResNet32(CifarResNet):
    depth = 32


@register("classifier", "resnet44_cifar10")
class ResNet44(CifarResNet):
    depth = 44


@register("classifier", "resnet56_cifar10")
class ResNet56(CifarResNet):
    depth = 56
