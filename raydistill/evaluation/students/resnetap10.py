"""ResNetAP-10 (IDC, Kim et al. 2022): a ResNet-10 whose strides are average poolings; the field's student at 224 px."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from raydistill.evaluation.students.layers import he_init, instance_norm, require, scaled
from raydistill.evaluation.students.pooling import relu_avg_pool
from raydistill.registry import register


class PooledBlock(nn.Module):
    """Two conv3x3 of stride 1, the first one's output pooled, beside the identity or a pooled conv1x1."""

    def __init__(self, inputs: int, outputs: int, pool: int) -> None:
        super().__init__()
        self.pool = pool
        self.one = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm_one = instance_norm(outputs)
        self.two = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm_two = instance_norm(outputs)
        self.beside: nn.Module = nn.Identity()
        if pool > 1 or inputs != outputs:
            self.beside = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, bias=False), nn.AvgPool2d(pool), instance_norm(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm_one(self.one(x))
        y = relu_avg_pool(y) if self.pool == 2 else F.relu(y)
        return F.relu(self.norm_two(self.two(y)) + self.beside(x))


@register("student", "resnetap10")
class ResNetAP10(nn.Module):
    """Blocks 1, 1, 1, 1 of 64 to 512 channels (at width 128), pooled by 1, 2, 2, 2, global average pooling.

    The stem goes by image size as in the released code of IDC and Minimax: conv3x3 up to 64 px (CIFAR's variant);
    conv3x3 and average pooling by 2 up to 128 px; conv7x7 and average pooling by 4 beyond, as at 224 and 256 px.
    """

    name = "resnetap10"
    channels = 64  # of the first stage at width 128

    def __init__(self, classes: int, image_size: int, width: int) -> None:
        super().__init__()
        require(self.name, image_size, 16)  # three poolings leave 2 x 2: of one pixel no norm can be taken
        base = scaled(self.channels, width)
        kernel, pool = (3, 1) if image_size <= 64 else (3, 2) if image_size <= 128 else (7, 4)
        stem = [nn.Conv2d(3, base, kernel, padding=kernel // 2, bias=False), instance_norm(base), nn.ReLU(inplace=True)]
        if pool > 1:
            stem.append(nn.AvgPool2d(pool))
        self.stem = nn.Sequential(*stem)
        self.blocks = nn.Sequential(
            *(PooledBlock(max(base, (base << i) // 2), base << i, 2 if i else 1) for i in range(4))
        )
        self.head = nn.Linear(base * 8, classes)
        he_init(self)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, S, S) -> logits (B, classes)."""
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))
