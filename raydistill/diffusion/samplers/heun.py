"""Heun's method, order 2."""

from __future__ import annotations

from torch import Tensor

from raydistill.diffusion.flow import Field, FlowStep
from raydistill.registry import register


@register("sampler", "heun")
class Heun:
    """x += (t' - t) (v(x, t) + v(x', t')) / 2 with Euler's x'. The last step is Euler's.

    2 n - 1 network calls in n intervals. Guidance acts at both ends of an interval. At t' = 1 it has none and a network
    of diffusion has no prediction, hence the last step; at an even grid the error that it adds is of order 2 as well.
    """

    spaces = ("velocity",)
    stochastic = False
    any_time = False

    def step(self, field: Field, x: Tensor, step: FlowStep) -> Tensor:
        h = step.t_next - step.t
        v = field(x, step.t, step)
        if step.index == 0:
            return x + h * v
        return x + 0.5 * h * (v + field(x + h * v, step.t_next))
