"""The sampling loop of diffusion: prediction -> guidance -> sampler step, batched over slots of any classes.

Every sample is independent and its noise comes from its key, so a batch may hold any slots. Flows are integrated by
the loop in flow.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from raydistill import seeding
from raydistill.diffusion.prediction import Prediction
from raydistill.diffusion.schedule import Placed, Step, Window
from raydistill.seeding import NoiseKey

Denoise = Callable[[Tensor, Step, Tensor], Prediction]  # (x_t, step, class_index) -> prediction after CFG


class Sampler(Protocol):
    spaces: tuple[str, ...]
    stochastic: bool

    def step(self, pred: Prediction, mean_shift: Tensor | None, noise: Tensor | None) -> Tensor: ...


class Guidance(Protocol):
    """Returns what is to be added in `space`: to the posterior mean ("mean") or to the noise estimate ("epsilon").

    A guidance that has something to show may also have `measured(pred, batch)`: delta, and numbers by name, (B,) each.
    """

    space: str
    window: Window

    def delta(self, pred: Prediction, batch: Batch) -> Tensor: ...


Watch = Callable[[Placed, dict[str, Tensor]], None]  # is told of every guided step; numbers by name, (B,) each


@dataclass(frozen=True)
class Batch:
    """Slots sampled together: class_index (B,) int64 of the generator, prototype (B, C, h, w) in generator space.

    `neighbours` (B, N, C, h, w) are real latents of the class in generator space, the nearest to the prototype first,
    NaN where a class has fewer; `spread` (B,) is the median distance of the class's real latents to their mean, in
    generator space. Both for guidance that asks for them, None otherwise.
    """

    class_index: Tensor
    prototype: Tensor
    keys: Sequence[NoiseKey]
    neighbours: Tensor | None = None
    spread: Tensor | None = None

    def noise(self, purpose: str, step: int, copies: int = 0) -> Tensor:
        """Standard normal (B, C, h, w) of the slots' keys; with `copies`, (B, copies, C, h, w)."""
        shape = (*([copies] if copies else []), *self.prototype.shape[1:])
        drawn = seeding.normal([k.at(purpose, step) for k in self.keys], shape)
        return torch.from_numpy(drawn).to(self.prototype.device)

    @cached_property
    def lengths(self) -> Tensor:
        """Squared lengths of the neighbours (B, N), NaN where there is none: once for all steps."""
        assert self.neighbours is not None
        return self.neighbours.flatten(2).square().sum(2)

    @cached_property
    def reach(self) -> Tensor:
        """Distances of the neighbours to their prototype (B, N), NaN where there is none: once for all steps."""
        assert self.neighbours is not None
        return torch.linalg.vector_norm(self.neighbours.flatten(2) - self.prototype.flatten(1).unsqueeze(1), dim=2)

    def take(self, rows: Sequence[int]) -> Batch:
        """Some of the slots, in the order of `rows`."""
        i = torch.as_tensor(list(rows), device=self.prototype.device)
        near = None if self.neighbours is None else self.neighbours[i]
        spread = None if self.spread is None else self.spread[i]
        return Batch(self.class_index[i], self.prototype[i], [self.keys[r] for r in rows], near, spread)


def sample(
    denoise: Denoise,
    steps: Sequence[Step],
    sampler: Sampler,
    guidance: Guidance | None,
    batch: Batch,
    watch: Watch | None = None,
) -> Tensor:
    """Runs the steps from pure noise. Returns x_0 (B, C, h, w) float32 in generator space.

    Order at each step: CFG (inside `denoise`), x0_hat, guidance, sampler (METHODS 1.2).
    """
    x = batch.noise("init", 0)
    for step in steps:
        pred = denoise(x, step, batch.class_index)
        shift = None
        if guidance is not None and guidance.window.active(step):
            if watch is None:
                delta = guidance.delta(pred, batch)
            else:
                delta, seen = measured(guidance, pred, batch)
                watch(step, seen)
            if guidance.space == "epsilon":
                pred = pred.with_eps(pred.eps_hat + delta)
            else:
                shift = delta
        noise = batch.noise("step", step.index) if sampler.stochastic and step.index > 0 else None
        x = sampler.step(pred, shift, noise)
    return x


def measured(guidance: Guidance, pred: Prediction, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """What a guidance adds, and its numbers. Always among them `push`: |delta| / |the network's part of this step|.

    The network's part is eps_hat itself for a shift of the noise estimate, and the term of eps_hat in the posterior
    mean, beta / sqrt((1 - beta) (1 - alpha_bar)) eps_hat, for a shift of the mean.
    """
    own = getattr(guidance, "measured", None)
    delta, seen = own(pred, batch) if own else (guidance.delta(pred, batch), {})
    s = pred.step
    part = 1.0 if guidance.space == "epsilon" else s.beta / ((1 - s.beta) * (1 - s.alpha_bar)) ** 0.5
    size = part * torch.linalg.vector_norm(pred.eps_hat.flatten(1), dim=1)
    return delta, {"push": torch.linalg.vector_norm(delta.flatten(1), dim=1) / size.clamp(min=1e-12), **seen}
