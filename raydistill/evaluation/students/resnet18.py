"""ResNet-18 with instance norm, as the papers of the field evaluate with it (He et al. 2016; IDC, Minimax, MGD3)."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from raydistill.evaluation.students.layers import he_init, instance_norm, require, scaled
from raydistill.registry import register


class ResidualBlock(nn.Module):
    """Two conv3x3, the first with the stride, beside the identity or a strided conv1x1."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.one = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm_one = norm(outputs)
        self.two = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm_two = norm(outputs)
        self.beside: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.beside = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), norm(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm_one(self.one(x)))
        return F.relu(self.norm_two(self.two(y)) + self.beside(x))


@register("student", "resnet18")
class ResNet18(nn.Module):
    """Blocks 2, 2, 2, 2 of 64 to 512 channels (at width 128), strides 1, 2, 2, 2, global average pooling.

    The stem goes by image size as in the released code of IDC and Minimax: conv3x3 up to 64 px; conv3x3 and max
    pooling by 2 up to 128 px; conv7x7 of stride 2 and max pooling by 2 beyond, as on ImageNet.
    """

    name = "resnet18"
    norm: Callable[[int], nn.Module] = staticmethod(instance_norm)  # of so many channels
    largest_small_stem = 128  # pixels a side, up to which the stem is conv3x3

    def __init__(self, classes: int, image_size: int, width: int) -> None:
        super().__init__()
        require(self.name, image_size, 9)  # three strides leave more than one pixel, of which no norm can be taken
        base = scaled(64, width)
        large = image_size > self.largest_small_stem
        stem = [
            nn.Conv2d(3, base, 7, 2, padding=3, bias=False) if large else nn.Conv2d(3, base, 3, padding=1, bias=False),
            self.norm(base),
            nn.ReLU(inplace=True),
        ]
        if image_size > 64:
            stem.append(nn.MaxPool2d(3, 2, padding=1))
        self.stem = nn.Sequential(*stem)
        blocks: list[nn.Module] = []
        for stage in range(4):
            outputs = base << stage
            blocks += [
                ResidualBlock(max(base, outputs // 2), outputs, 2 if stage else 1, self.norm),
                ResidualBlock(outputs, outputs, 1, self.norm),
            ]
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(base * 8, classes)
        he_init(self)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, S, S) -> logits (B, classes)."""
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))
