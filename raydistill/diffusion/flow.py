"""The sampling loop of flows: the ODE dx/dt = v(x, t) from noise at t = 0 to data at t = 1, guided in its velocity.

x_t = t data + (1 - t) noise and v = data - noise (the linear path of flow matching and of SiT). A sampler crosses one
interval of time after the other; the field that it asks adds guidance and counts network calls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from raydistill.diffusion.loop import Batch, Watch
from raydistill.diffusion.prediction import FlowPrediction
from raydistill.diffusion.schedule import Opening, Placed, timesteps
from raydistill.diffusion.start import NOISE, Start, mixed
from raydistill.errors import BadInput

Velocity = Callable[[Tensor, float, Tensor], Tensor]  # (x_t, t, class_index) -> v_hat (B, C, h, w) after CFG


@dataclass(frozen=True)
class FlowStep:
    """One interval of time, t < t_next. Indices count down to 0, the interval that ends in the image."""

    index: int
    t: float
    t_next: float
    count: int

    @property
    def fraction(self) -> float:
        """1 - t, as fractions of the noise path are counted elsewhere: 1 = pure noise."""
        return 1.0 - self.t


class FlowGuidance(Protocol):
    """Returns what is to be added to the velocity, where `window` is open.

    `guidance/base.py` is what implements it. `measured`: delta, and numbers by name, (B,). `calls_at`: how often it
    asks the network itself.
    """

    space: str

    @property
    def window(self) -> Opening: ...

    def calls_at(self, step: Placed) -> int: ...

    def delta(self, pred: FlowPrediction, batch: Batch) -> Tensor: ...

    def measured(self, pred: FlowPrediction, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]: ...


class FlowSampler(Protocol):
    spaces: tuple[str, ...]
    any_time: bool  # asks for velocities between the ends of the interval

    def step(self, field: Field, x: Tensor, step: FlowStep) -> Tensor: ...


def path(
    count: int, t0: float = 0.0, own_times: np.ndarray | None = None, shift: float = 1.0, grid: str = "released"
) -> tuple[FlowStep, ...]:
    """`count` intervals from t0 to 1, in sampling order. Raises BadInput if there are fewer times.

    A flow knows every time: sigma = 1 - t is cut evenly, then moved to shift sigma / (1 + (shift - 1) sigma), as
    diffusers' FlowMatch schedulers do. A network of diffusion knows its `own_times` only (noisier ones later in the
    array): the path goes through those at or after t0 that `grid` picks, as it picks training times for DDIM.
    """
    if own_times is None:
        first = (1 - t0) / (shift - (shift - 1) * (1 - t0))
        sigma = np.linspace(first, 0.0, count + 1)
        times = 1 - shift * sigma / (1 + (shift - 1) * sigma)
        times[0], times[-1] = t0, 1.0
    else:
        usable = own_times[own_times >= t0]
        if count > len(usable):
            raise BadInput(
                f"sampler.steps={count} is more than the {len(usable)} times of the generator's from t={t0:g} on; "
                "lower it, or begin earlier"
            )
        times = np.append(usable[timesteps(grid, count, len(usable))][::-1], 1.0)
    pairs = zip(times[:-1].tolist(), times[1:].tolist(), strict=True)
    return tuple(FlowStep(count - 1 - i, t, after, count) for i, (t, after) in enumerate(pairs))


class Field:
    """The guided velocity of a batch of slots. `calls` (B,) counts how often the network was asked for each."""

    def __init__(
        self,
        velocity: Velocity,
        guidance: FlowGuidance | None,
        batch: Batch,
        watch: Watch | None = None,
        calls: np.ndarray | None = None,
    ) -> None:
        self.velocity, self.guidance, self.batch, self.watch = velocity, guidance, batch, watch
        self.calls = np.zeros(len(batch.keys), np.int64) if calls is None else calls

    def __call__(self, x: Tensor, t: float, begins: FlowStep | None = None) -> Tensor:
        """v_hat + delta at x (B, C, h, w). The watch is told of it where the step `begins`."""
        self.calls += 1
        v = self.velocity(x, t, self.batch.class_index)
        step = begins or FlowStep(0, t, 1.0, 1)
        if self.guidance is None or not self.guidance.window.active(step):
            return v
        pred = FlowPrediction(step, t, x, v)
        self.calls += self.guidance.calls_at(step)
        if self.watch is None or begins is None:
            return v + self.guidance.delta(pred, self.batch)
        delta, seen = self.guidance.measured(pred, self.batch)
        self.watch(step, seen)
        return v + delta

    def alone(self, row: int) -> Field:
        """The field of one slot. Its calls are counted here too."""
        return Field(self.velocity, self.guidance, self.batch.take([row]), None, self.calls[row : row + 1])


def sample(
    velocity: Velocity,
    steps: Sequence[FlowStep],
    sampler: FlowSampler,
    guidance: FlowGuidance | None,
    batch: Batch,
    watch: Watch | None = None,
    start: Start = NOISE,
) -> tuple[Tensor, np.ndarray]:
    """Integrates from the time of the first step to t = 1.

    Returns x_1 (B, C, h, w) float32 in generator space, and evaluations of the field (B,).
    """
    field = Field(velocity, guidance, batch, watch)
    t0 = steps[0].t
    x = mixed((1 - t0) * batch.noise("init", 0), batch.prototype, t0, 1.0, start)
    for step in steps:
        x = sampler.step(field, x, step)
    return x, field.calls
