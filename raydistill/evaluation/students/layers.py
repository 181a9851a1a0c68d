"""What the students of the literature share: instance norm, and widths that scale together."""

from __future__ import annotations

from torch import nn

from raydistill.errors import BadInput

LITERATURE = 128  # `width` at which every student has the channels of the papers


def scaled(channels: int, width: int) -> int:
    """A layer's channels in the papers -> its channels at this width, in proportion, at least one."""
    return max(1, channels * width // LITERATURE)


def instance_norm(channels: int) -> nn.GroupNorm:
    """A group a channel: statistics of one image alone, with a learned scale and shift."""
    return nn.GroupNorm(channels, channels)


def he_init(net: nn.Module) -> None:
    """Convolutions as in the released ResNets: normal, variance 2 / (kernel area x output channels)."""
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")


def require(student: str, image_size: int, least: int) -> None:
    """Raises BadInput for an image too small to be told from a constant where the student normalises it last."""
    if image_size < least:
        raise BadInput(
            f"evaluate.protocol.image_size={image_size} is too small for the student {student}, "
            f"which takes {least} and more; raise it or choose another student"
        )
