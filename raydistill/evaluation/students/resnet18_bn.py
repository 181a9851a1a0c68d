"""ResNet-18 with BatchNorm: torchvision's, as RDED, SRe2L, D4M and RD3 train it (He et al. 2016)."""

from __future__ import annotations

from torch import nn

from raydistill.evaluation.students.resnet18 import ResNet18
from raydistill.registry import register


@register("student", "resnet18_bn")
class ResNet18BN(ResNet18):
    """As `resnet18`, with running statistics that count when it is tested.

    The stem up to 64 px is a conv3x3 without pooling (CIFAR and Tiny-ImageNet: "modified" in RDED's release), beyond
    it torchvision's conv7x7 of stride 2 and max pooling by 2.
    """

    name = "resnet18_bn"
    norm = staticmethod(nn.BatchNorm2d)
    largest_small_stem = 64
