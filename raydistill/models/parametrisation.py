"""What a network predicts and how it is asked: the edge at which every other convention ends.

Inside there are two views of one thing. Diffusion: x_t = a x_0 + s eps with a^2 = alpha_bar, s^2 = 1 - alpha_bar. Flow:
x_t = t x_1 + (1 - t) eps with v = x_1 - eps, t = 1 at data. With c = a + s the former divided by c is the latter at
t = a / c, so that any network serves both: a velocity model under DDPM and DDIM, a noise model as a flow.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from torch import Tensor

from raydistill.diffusion.prediction import x0_from_eps
from raydistill.diffusion.schedule import Step, alphas_bar
from raydistill.errors import BadInput

NAMES: dict[str, Literal["epsilon", "v", "flow"]] = {
    "epsilon": "epsilon",
    "v": "v",
    "flow": "flow",
    "flow_velocity": "flow",
}
# A flow has no betas. Under DDPM and DDIM it is sampled along DiT's, so that methods compare at the same noise levels.
DIT_BETAS = {"num_train_timesteps": 1000, "beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}
TIMES_OF_ITS_OWN = (  # what FlowMatch schedulers may do to their times besides `shift`
    "use_dynamic_shifting",
    "invert_sigmas",
    "shift_terminal",
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
    "stochastic_sampling",
)


class Parametrisation(Protocol):
    """`noised` and `on_path` give what the network is shown and the time that it is told; `estimates` (eps_hat, x0_hat)
    and `velocity` what its answer means there. `out` is its answer after classifier-free guidance, (B, C, h, w)."""

    @property
    def predicts(self) -> Literal["epsilon", "v", "flow"]: ...

    @property
    def alphas_bar(self) -> np.ndarray: ...

    @property
    def own_times(self) -> np.ndarray | None:
        """The only t at which velocities are known, noisier ones later; None = every t in [0, 1]."""

    def noised(self, x_t: Tensor, step: Step) -> tuple[Tensor, int | float]: ...

    def estimates(self, x_t: Tensor, step: Step, out: Tensor) -> tuple[Tensor, Tensor]: ...

    def on_path(self, x: Tensor, t: float) -> tuple[Tensor, int | float]: ...

    def velocity(self, x: Tensor, t: float, out: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class OfDiffusion:
    """Networks of the variance-preserving process: the noise eps, or v = a eps - s x_0 (Salimans & Ho 2022)."""

    predicts: Literal["epsilon", "v"]
    alphas_bar: np.ndarray

    @cached_property
    def own_times(self) -> np.ndarray:
        """t_i = a_i / (a_i + s_i) of each training step i: it was trained at no other noise level."""
        a, s = np.sqrt(self.alphas_bar), np.sqrt(1 - self.alphas_bar)
        return a / (a + s)

    @cached_property
    def _steps(self) -> dict[float, int]:
        return {float(t): i for i, t in enumerate(self.own_times)}

    def noised(self, x_t: Tensor, step: Step) -> tuple[Tensor, int]:
        return x_t, step.t

    def estimates(self, x_t: Tensor, step: Step, out: Tensor) -> tuple[Tensor, Tensor]:
        if self.predicts == "epsilon":
            return out, x0_from_eps(x_t, out, step)
        a, s = step.alpha_bar**0.5, (1 - step.alpha_bar) ** 0.5
        return a * out + s * x_t, a * x_t - s * out

    def on_path(self, x: Tensor, t: float) -> tuple[Tensor, int]:
        if t not in self._steps:
            raise ValueError(f"t={t} is not a time of the generator's own; take them from own_times")
        i = self._steps[t]
        alpha_bar = float(self.alphas_bar[i])
        return (alpha_bar**0.5 + (1 - alpha_bar) ** 0.5) * x, i

    def velocity(self, x: Tensor, t: float, out: Tensor) -> Tensor:
        if self.predicts == "epsilon":
            return (x - out) / t  # x = t x1_hat + (1 - t) eps_hat
        alpha_bar = float(self.alphas_bar[self._steps[t]])
        a, s = alpha_bar**0.5, (1 - alpha_bar) ** 0.5
        return (a - s) * (a + s) * x - (a + s) * out


@dataclass(frozen=True)
class OfFlow:
    """Networks of the linear path. `sign` is 1 if they predict data - noise, -1 if noise - data (diffusers); they are
    told t (`steps` = 0, SiT) or steps (1 - t), diffusers' timestep."""

    sign: int
    steps: int
    alphas_bar: np.ndarray
    own_times = None
    predicts: ClassVar[Literal["flow"]] = "flow"

    def timestep(self, t: float) -> float:
        return self.steps * (1 - t) if self.steps else t

    def noised(self, x_t: Tensor, step: Step) -> tuple[Tensor, float]:
        c = step.alpha_bar**0.5 + (1 - step.alpha_bar) ** 0.5
        return x_t / c, self.timestep(step.alpha_bar**0.5 / c)

    def estimates(self, x_t: Tensor, step: Step, out: Tensor) -> tuple[Tensor, Tensor]:
        c = step.alpha_bar**0.5 + (1 - step.alpha_bar) ** 0.5
        t, x, v = step.alpha_bar**0.5 / c, x_t / c, self.sign * out
        return x - t * v, x + (1 - t) * v

    def on_path(self, x: Tensor, t: float) -> tuple[Tensor, float]:
        return x, self.timestep(t)

    def velocity(self, x: Tensor, t: float, out: Tensor) -> Tensor:
        return self.sign * out


def parametrisation(training: dict[str, Any], scheduler: dict[str, Any], path: Path) -> Parametrisation:
    """By training.json and scheduler_config.json of the generator in `path`. Raises BadInput if they disagree."""
    prediction = training["prediction"]
    predicts = NAMES.get(prediction) if isinstance(prediction, str) else None
    if predicts is None:
        raise BadInput(
            f"generator.path: {path} predicts {prediction!r}; training.json must give prediction as epsilon, v or flow"
        )
    kind, said = str(scheduler.get("_class_name", "")), scheduler.get("prediction_type", "epsilon")
    if ("FlowMatch" in kind) != (predicts == "flow"):
        raise BadInput(
            f"generator.path: {path} predicts {prediction!r} but its scheduler is {kind!r}; a flow goes with "
            "FlowMatchEulerDiscreteScheduler and nothing else does: correct one of the two"
        )
    if predicts == "flow":
        return _of_flow(training, scheduler, path)
    if said != {"epsilon": "epsilon", "v": "v_prediction"}[predicts]:
        raise BadInput(
            f"generator.path: {path} predicts {prediction!r} by training.json, but its scheduler says "
            f"prediction_type={said!r}; correct one of the two"
        )
    return OfDiffusion(predicts, alphas_bar(scheduler))


def time_shift(scheduler: dict[str, Any], path: Path) -> float:
    """`shift` of a FlowMatch scheduler, 1 for others. Raises BadInput."""
    shift = scheduler.get("shift", 1.0) if "FlowMatch" in str(scheduler.get("_class_name")) else 1.0
    if isinstance(shift, bool) or not isinstance(shift, int | float) or not 0 < shift < 1e3:
        raise BadInput(f"generator.path: {path} gives shift={shift!r} in its scheduler; it must be a positive number")
    return float(shift)


def _of_flow(training: dict[str, Any], scheduler: dict[str, Any], path: Path) -> OfFlow:
    odd = next((key for key in TIMES_OF_ITS_OWN if scheduler.get(key)), None)
    if odd:
        raise BadInput(f"generator.path: {odd}={scheduler[odd]!r} in the scheduler of {path} is not supported")
    steps = scheduler.get("num_train_timesteps", 1000)
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise BadInput(f"generator.path: {path} gives num_train_timesteps={steps!r} in its scheduler; it is a count")
    velocity, timestep = training.get("velocity", "noise - data"), training.get("timestep", f"{steps} * sigma")
    signs, times = {"noise - data": -1, "data - noise": 1}, {f"{steps} * sigma": steps, "t": 0}
    for key, value, known in (("velocity", velocity, signs), ("timestep", timestep, times)):
        if not isinstance(value, str) or value not in known:
            raise BadInput(
                f"generator.path: {path / 'training.json'} gives {key}={value!r}; "
                f"known are {' and '.join(map(repr, known))}"
            )
    if training["learned_variance"]:
        raise BadInput(f"generator.path: {path} is a flow with learned_variance=true; a flow has no variance to learn")
    return OfFlow(signs[velocity], times[timestep], alphas_bar(DIT_BETAS))
