"""SqueezeNet 1.0 (Iandola et al. 2016), with the weight names of torchvision's `squeezenet1_0`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from raydistill.registry import register


class Fire(nn.Module):
    """A 1x1 squeeze, then 1x1 and 3x3 expansions side by side."""

    def __init__(self, inputs: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze(x).relu()
        return torch.cat([self.expand1x1(x).relu(), self.expand3x3(x).relu()], dim=1)


@register("classifier", "squeezenet1_0")
class SqueezeNet(nn.Module):
    """1,248,424 parameters with 1000 classes; any input from 32 px. The pools round up (`ceil_mode`) as in torchvision.

    The embedding is the spatial mean of `features`, (B, 512): what the head, a 1x1 convolution, sees on average.
    """

    image_size = 224
    mean = (0.485, 0.456, 0.406)
    std = (0.229, 0.224, 0.225)

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 96, 7, stride=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            Fire(96, 16, 64),
            Fire(128, 16, 64),
            Fire(128, 32, 128),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            Fire(256, 32, 128),
            Fire(256, 48, 192),
            Fire(384, 48, 192),
            Fire(384, 64, 256),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            Fire(512, 64, 256),
        )
        self.classifier = nn.Sequential(nn.Dropout(0.5), nn.Conv2d(512, classes, 1), nn.ReLU(inplace=True))

    def features_of(self, x: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, 512)."""
        return self.features(x).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, S, S) -> logits (B, classes), none below 0: the head ends in a ReLU."""
        return self.classifier(self.features(x)).mean((2, 3))
