"""ReLU and 2 x 2 average pooling in one: on a CPU the two are a third of a ConvNet's training.

PyTorch pools with a loop over single pixels. Here even and odd columns are added as wholes, in PyTorch's order, so that
values and gradients have the same bits in float32; in bfloat16 each of the three sums is rounded.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ReluAvgPool(nn.Module):
    """(B, C, H, W) -> (B, C, H // 2, W // 2): the mean of relu(x) over 2 x 2; an odd last row or column is dropped."""

    def forward(self, x: Tensor) -> Tensor:
        return relu_avg_pool(x)


def relu_avg_pool(x: Tensor) -> Tensor:
    """As ReluAvgPool, differentiable once."""
    if x.device.type != "cpu" or x.shape[2] % 2 or x.shape[3] % 2:
        return F.avg_pool2d(F.relu(x), 2)
    pooled: Tensor = _Halves.apply(x)
    return pooled


class _Halves(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        even, odd = (x[..., j::2].clone(memory_format=torch.contiguous_format).clamp_min_(0) for j in (0, 1))
        total = even[..., ::2, :] + odd[..., ::2, :]
        return total.add_(even[..., 1::2, :]).add_(odd[..., 1::2, :]).mul_(0.25)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        grad = grad * 0.25
        wide = grad.new_empty((*grad.shape[:-1], x.shape[-1]))
        wide[..., ::2] = grad
        wide[..., 1::2] = grad
        out = torch.empty_like(x)
        out[..., ::2, :] = wide
        out[..., 1::2, :] = wide
        torch.ops.aten.threshold_backward.grad_input(out, x, 0, grad_input=out)
        return out
