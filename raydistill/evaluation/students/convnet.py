"""ConvNet-n of the literature: n blocks of conv3x3, instance norm, ReLU, average pooling; then a linear layer."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from raydistill.evaluation.students.layers import instance_norm, require
from raydistill.evaluation.students.pooling import ReluAvgPool
from raydistill.registry import register


@register("student", "convnet")
class ConvNet(nn.Module):
    """As deep as leaves a last map of at least 3 x 3: 4 x 4 for powers of two, 3 x 3 at 224 px (ConvNet-6).

    ConvNet-3 at 32 px, -4 at 64, -5 at 128, -6 at 224 and 256; an odd row or column is dropped by the pooling. `width`
    is the channels of every block, 128 in the papers.
    """

    name = "convnet"
    norm: Callable[[int], nn.Module] = staticmethod(instance_norm)  # of so many channels

    def __init__(self, classes: int, image_size: int, width: int) -> None:
        super().__init__()
        require(self.name, image_size, 6)
        blocks = (image_size // 3).bit_length() - 1
        layers: list[nn.Module] = []
        for i in range(blocks):
            layers += [
                nn.Conv2d(3 if i == 0 else width, width, 3, padding=1),
                self.norm(width),
                ReluAvgPool(),
            ]
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(width * (image_size >> blocks) ** 2, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, S, S) -> logits (B, classes)."""
        return self.head(self.features(x).flatten(1))
