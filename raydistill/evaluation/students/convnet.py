"""ConvNet-n of the literature: n blocks of conv3x3, instance norm, ReLU, average pooling; then a linear layer."""

from __future__ import annotations

from torch import Tensor, nn

from raydistill.errors import BadInput
from raydistill.registry import register


@register("student", "convnet")
class ConvNet(nn.Module):
    """n = log2(image_size) - 2, so that the last map is 4 x 4: ConvNet-3 at 32 px, ConvNet-4 at 64 px."""

    def __init__(self, classes: int, image_size: int, width: int) -> None:
        super().__init__()
        blocks = image_size.bit_length() - 3
        if image_size != 2 ** (blocks + 2) or blocks < 1:
            raise BadInput(
                f"evaluate.protocol.image_size={image_size} must be a power of two from 8 for the convnet student"
            )
        layers: list[nn.Module] = []
        for i in range(blocks):
            layers += [
                nn.Conv2d(3 if i == 0 else width, width, 3, padding=1),
                nn.GroupNorm(width, width),
                nn.ReLU(inplace=True),
                nn.AvgPool2d(2),
            ]
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(width * 16, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, S, S) -> logits (B, classes)."""
        return self.head(self.features(x).flatten(1))
