"""VGG-11 with instance norm and one linear layer, the small-image form of the DC benchmark (Zhao et al. 2021)."""

from __future__ import annotations

from torch import Tensor, nn

from raydistill.evaluation.students.layers import instance_norm, require, scaled
from raydistill.registry import register

STAGES = ((64,), (128,), (256, 256), (512, 512), (512, 512))  # channels in the paper; max pooling after each stage


@register("student", "vgg11")
class VGG11(nn.Module):
    """Eight conv3x3 in five stages. The last map, S/32 a side, is flattened: one pixel at 32 px (DC), 7 x 7 at 224."""

    def __init__(self, classes: int, image_size: int, width: int) -> None:
        super().__init__()
        require("vgg11", image_size, 32)
        layers: list[nn.Module] = []
        inputs = 3
        for stage in STAGES:
            for channels in stage:
                outputs = scaled(channels, width)
                layers += [nn.Conv2d(inputs, outputs, 3, padding=1), instance_norm(outputs), nn.ReLU(inplace=True)]
                inputs = outputs
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(inputs * (image_size // 32) ** 2, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, S, S) -> logits (B, classes)."""
        return self.head(self.features(x).flatten(1))
