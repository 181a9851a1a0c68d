"""ConvNet-n with BatchNorm: the ConvNet that RDED (Sun et al. 2024) validates with."""

from __future__ import annotations

from torch import nn

from raydistill.evaluation.students.convnet import ConvNet
from raydistill.registry import register


@register("student", "convnet_bn")
class ConvNetBN(ConvNet):
    """As `convnet`, each convolution followed by BatchNorm, whose running statistics count when it is tested."""

    name = "convnet_bn"
    norm = staticmethod(nn.BatchNorm2d)
