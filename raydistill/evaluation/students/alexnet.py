"""AlexNet in the small-image form of the DC benchmark (Zhao et al. 2021): no norm, no dropout, one linear layer."""

from __future__ import annotations

from torch import Tensor, nn

from raydistill.evaluation.students.layers import require, scaled
from raydistill.registry import register


@register("student", "alexnet")
class AlexNet(nn.Module):
    """Five convolutions of stride 1, max pooling after the first, second and fifth. It is not ImageNet's AlexNet.

    Made for 32 and 64 px; the last map, S/8 a side, is flattened, so the linear layer grows with larger images (GLaD
    uses it so at 128 px and more; ImageNet's own is `timm:` or yours to add).
    """

    def __init__(self, classes: int, image_size: int, width: int) -> None:
        super().__init__()
        require("alexnet", image_size, 8)
        a, b, c = (scaled(n, width) for n in (128, 192, 256))
        self.features = nn.Sequential(
            nn.Conv2d(3, a, 5, padding=2), nn.ReLU(inplace=True), nn.MaxPool2d(2),
            nn.Conv2d(a, b, 5, padding=2), nn.ReLU(inplace=True), nn.MaxPool2d(2),
            nn.Conv2d(b, c, 3, padding=1), nn.ReLU(inplace=True),
            nn.Conv2d(c, b, 3, padding=1), nn.ReLU(inplace=True),
            nn.Conv2d(b, b, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        )  # fmt: skip
        self.head = nn.Linear(b * (image_size // 8) ** 2, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, S, S) -> logits (B, classes)."""
        return self.head(self.features(x).flatten(1))
