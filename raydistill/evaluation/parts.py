"""How many images go through a student at once on a CPU, where a batch whose maps leave the caches takes longer.

Shown images in parts a student gives each the same bits. The gradient of a batch is summed over parts, which rounds
otherwise than the whole; statistics of batches are those of whole ones, so that a network that has such layers learns
from whole batches.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

MAP_BYTES = 2**23  # of a part's largest map: the quickest of 4 to 64 images at 32 and 64 px, width 64 and 128
ALL = 2**31


@torch.inference_mode()
def at_once(net: nn.Module, side: int, device: torch.device, arithmetic: AbstractContextManager[Any]) -> int:
    """Images of side x side pixels whose largest map takes MAP_BYTES, at least 1; on another device than a CPU ALL.

    An empty one goes through the network in evaluation mode, in `arithmetic`, to see how large its maps are: the number
    depends on the network, the size of the images and the arithmetic, not on the machine.
    """
    if device.type != "cpu":
        return ALL
    image = torch.zeros(1, 3, side, side)
    sizes = [image.nbytes]

    def note(layer: nn.Module, inputs: tuple[Any, ...], output: object) -> None:
        if isinstance(output, Tensor):
            sizes.append(output.nbytes)

    hooks = [layer.register_forward_hook(note) for layer in net.modules()]
    learning = net.training
    net.eval()
    try:
        with arithmetic:
            net(image)
    finally:
        net.train(learning)
        for hook in hooks:
            hook.remove()
    return max(1, MAP_BYTES // max(sizes))
