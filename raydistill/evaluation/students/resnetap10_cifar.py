"""ResNetAP-10 of half the channels: what IDC (Kim et al. 2022) trains under this name on CIFAR."""

from __future__ import annotations

from raydistill.evaluation.students.resnetap10 import ResNetAP10
from raydistill.registry import register


@register("student", "resnetap10_cifar")
class ResNetAP10Cifar(ResNetAP10):
    """As `resnetap10`, with 32 to 256 channels (at width 128)."""

    name = "resnetap10_cifar"
    channels = 32
