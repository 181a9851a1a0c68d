"""How far a trajectory walks: a sampler around another that changes nothing and adds up the lengths of its steps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from raydistill.diffusion.loop import Watch
from raydistill.diffusion.prediction import Prediction


class Walk:
    """Wraps a sampler of flows or of diffusion for one batch. `length` (B,) is sum |x_{k+1} - x_k| so far.

    `path_ratio` (B,) is that over |x - x_0|, the straight distance from where the walk began: 1 is a straight line.
    Between the ends of an interval nothing is seen. States are x_t as the sampler has them: in diffusion
    they hold its noise.
    """

    def __init__(self, sampler: Any, watch: Watch | None = None) -> None:
        self.sampler, self.watch = sampler, watch
        self.begin: Tensor | None = None
        self.length = self.path_ratio = torch.zeros(0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sampler, name)

    def step(self, first: Any, *more: Any) -> Tensor:
        """`step` of the sampler. The watch is told of every step, by the name `detour`."""
        diffusion = isinstance(first, Prediction)
        x, step = (first.x_t, first.step) if diffusion else more[:2]
        after = self.sampler.step(first, *more)
        if self.begin is None:
            self.begin, self.length = x, torch.zeros(len(x), device=x.device)
        self.length = self.length + distance(after, x)
        self.path_ratio = self.length / distance(after, self.begin).clamp(min=1e-12)
        if self.watch is not None:
            self.watch(step, {"detour": self.path_ratio})
        return after


def distance(a: Tensor, b: Tensor) -> Tensor:
    """Distances of the rows of two (B, C, h, w): (B,) float32."""
    return torch.linalg.vector_norm((a - b).flatten(1).float(), dim=1)
