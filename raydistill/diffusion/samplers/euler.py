"""Euler's method, order 1."""

from __future__ import annotations

from torch import Tensor

from raydistill.diffusion.flow import Field, FlowStep
from raydistill.registry import register


@register("sampler", "euler")
class Euler:
    """x += (t' - t) v(x, t). One network call an interval; on a network of diffusion this is DDIM."""

    spaces = ("velocity",)
    stochastic = False
    any_time = False

    def step(self, field: Field, x: Tensor, step: FlowStep) -> Tensor:
        return x + (step.t_next - step.t) * field(x, step.t, step)
