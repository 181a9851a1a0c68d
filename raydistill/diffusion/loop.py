"""The one sampling loop: prediction -> guidance -> sampler step, batched over slots of any classes.

Every sample is independent and its noise comes from its key, so a batch may hold any slots.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from raydistill import seeding
from raydistill.diffusion.prediction import Prediction
from raydistill.diffusion.schedule import Step, Window
from raydistill.seeding import NoiseKey

Denoise = Callable[[Tensor, Step, Tensor], Prediction]  # (x_t, step, class_index) -> prediction after CFG


class Sampler(Protocol):
    spaces: tuple[str, ...]
    stochastic: bool

    def step(self, pred: Prediction, mean_shift: Tensor | None, noise: Tensor | None) -> Tensor: ...


class Guidance(Protocol):
    """Returns what is to be added in `space`: to the posterior mean ("mean") or to the noise estimate ("epsilon")."""

    space: str
    window: Window

    def delta(self, pred: Prediction, batch: Batch) -> Tensor: ...


@dataclass(frozen=True)
class Batch:
    """Slots sampled together: class_index (B,) int64 of the generator, prototype (B, C, h, w) in generator space."""

    class_index: Tensor
    prototype: Tensor
    keys: Sequence[NoiseKey]

    def noise(self, purpose: str, step: int) -> Tensor:
        shape = self.prototype.shape[1:]
        drawn = seeding.normal([k.at(purpose, step) for k in self.keys], shape)
        return torch.from_numpy(drawn).to(self.prototype.device)


def sample(
    denoise: Denoise, steps: Sequence[Step], sampler: Sampler, guidance: Guidance | None, batch: Batch
) -> Tensor:
    """Runs the steps from pure noise. Returns x_0 (B, C, h, w) float32 in generator space.

    Order at each step: CFG (inside `denoise`), x0_hat, guidance, sampler (METHODS 1.2).
    """
    x = batch.noise("init", 0)
    for step in steps:
        pred = denoise(x, step, batch.class_index)
        shift = None
        if guidance is not None and guidance.window.active(step):
            delta = guidance.delta(pred, batch)
            if guidance.space == "epsilon":
                pred = pred.with_eps(pred.eps_hat + delta)
            else:
                shift = delta
        noise = batch.noise("step", step.index) if sampler.stochastic and step.index > 0 else None
        x = sampler.step(pred, shift, noise)
    return x
