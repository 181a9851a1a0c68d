"""The reference: scipy's Runge-Kutta methods with step sizes by their own error estimate."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from raydistill.config import AdaptiveConfig, Section
from raydistill.diffusion.flow import Field, FlowStep
from raydistill.errors import StageFailed
from raydistill.registry import register

LAST = 1 - 1e-4  # nothing is asked nearer to t = 1, where guidance ends and a velocity says nothing new


@register("sampler", "adaptive")
class Adaptive:
    """Every interval is integrated until the error estimate of a step is below atol + rtol |x|.

    Each sample by itself, so that its step sizes, and with them its bytes, do not depend on what shares its batch: as
    slow as exact, for comparison. Network calls are counted, the rejected steps' too. Guidance leaves no trace here.
    """

    spaces = ("velocity",)
    stochastic = False
    any_time = True
    section: ClassVar[tuple[str, type[Section]] | None] = ("adaptive", AdaptiveConfig)

    def __init__(self, settings: AdaptiveConfig | None = None) -> None:
        self.settings = settings or AdaptiveConfig()

    def step(self, field: Field, x: Tensor, step: FlowStep) -> Tensor:
        return torch.cat([self.solved(field.alone(i), x[i : i + 1], step) for i in range(len(x))])

    def solved(self, field: Field, x: Tensor, step: FlowStep) -> Tensor:
        most = field.calls[0] + self.settings.calls

        def velocity_at(t: float, y: np.ndarray) -> np.ndarray:
            if field.calls[0] >= most:  # guidance may ask several times at once
                raise StageFailed(
                    f"sampler adaptive: not done after {self.settings.calls} network calls between t={step.t:.4g} and "
                    f"{step.t_next:.4g}; raise adaptive.rtol and adaptive.atol, or adaptive.calls"
                )
            at = torch.from_numpy(y.reshape(tuple(x.shape))).to(x.device, x.dtype)
            return field(at, min(float(t), LAST)).double().cpu().numpy().ravel()

        solution = solve_ivp(
            velocity_at,
            (step.t, step.t_next),
            x.double().cpu().numpy().ravel(),
            self.settings.solver,
            t_eval=[step.t_next],
            rtol=self.settings.rtol,
            atol=self.settings.atol,
        )
        if not solution.success:
            raise StageFailed(
                f"sampler adaptive: no solution from t={step.t:.4g} to {step.t_next:.4g} ({solution.message}); "
                "raise adaptive.rtol and adaptive.atol"
            )
        return torch.from_numpy(solution.y[:, -1].reshape(tuple(x.shape))).to(x.device, x.dtype)
