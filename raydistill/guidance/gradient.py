"""Gradients inside the sampling loops, which run without them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def gradient(
    of: Callable[..., Tensor], x: Tensor, *beside: Tensor, micro_batch: int | None = None
) -> tuple[Tensor, Tensor]:
    """of(x, *beside) (B,), and its gradient in x, of the shape and dtype of x (B, ...).

    Row i of `of` must depend on row i of its arguments alone: `micro_batch` rows are gone through at a time, forth and
    back, so that memory is bounded by these. `of` is called with gradients on and on tensors that are none of
    torch.inference_mode, even inside of it; whatever else it reads must have been made outside, as networks are.
    """
    values, slopes = [], []
    size = micro_batch or len(x)
    with torch.inference_mode(False), torch.enable_grad():
        for rows in zip(*(t.split(size) for t in (x, *beside)), strict=True):
            part, *others = (t.detach().clone() for t in rows)
            value = of(part.requires_grad_(), *others)
            slopes.append(torch.autograd.grad(value.sum(), part)[0])
            values.append(value.detach())
    return torch.cat(values), torch.cat(slopes)
