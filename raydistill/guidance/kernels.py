"""Kernels whose log-gradient pulls the predicted image to its prototype (ManifoldGD, arXiv 2602.23295)."""

from __future__ import annotations

import torch
from torch import Tensor

NUDGE = 1e-8  # keeps the Laplace pull finite on the prototype itself


def pull(kernel: str, x0_hat: Tensor, c: Tensor, width: float) -> Tensor:
    """Gradient of log k(x0_hat, c), up to the factor that each kernel's own convention leaves out. (B, C, h, w).

    With r = |x0_hat - c|: rbf (c - x0_hat) / width^2; laplace (c - x0_hat) / (width r); imq (c - x0_hat) / (r^2 +
    width^2). rbf of width 1 is MGD3's m - x0_hat. The kernels are not equally strong: rbf grows with r, laplace has one
    length, imq fades as 1 / r.
    """
    g = c - x0_hat
    if kernel == "rbf":
        return g if width == 1 else g / width**2
    r = torch.linalg.vector_norm(g.flatten(1), dim=1).view(-1, *[1] * (g.ndim - 1))
    if kernel == "laplace":
        return g / (width * (r + NUDGE))
    if kernel == "imq":
        return g / (r.square() + width**2)
    raise ValueError(f"unknown kernel {kernel!r}")
