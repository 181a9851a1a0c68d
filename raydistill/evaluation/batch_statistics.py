"""BatchNorm in training: which layers keep statistics of batches, and what they do where a batch has none."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


def batch_norms(net: nn.Module) -> list[nn.Module]:
    """The layers that normalise by batches in training and by running statistics in evaluation."""
    return [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def spare_single_values(net: nn.Module) -> bool:
    """Lets a layer that sees one value a channel use, and leave, its running statistics: torch would raise ValueError.

    An epoch's last batch may be one image, whose last map may be one pixel. Any other batch is normalised as ever.
    Returns whether there is any such layer.
    """
    resting: set[nn.Module] = set()

    def rest(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        if layer.training and inputs[0].numel() == inputs[0].shape[1]:
            layer.training = False
            resting.add(layer)

    def wake(layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        if layer in resting:
            layer.training = True
            resting.remove(layer)

    norms = batch_norms(net)
    for layer in norms:
        layer.register_forward_pre_hook(rest)
        layer.register_forward_hook(wake)
    return bool(norms)
