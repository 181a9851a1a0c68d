"""The sampling loop of diffusion: prediction -> guidance -> sampler step, batched over slots of any classes.

Every sample is independent and its noise comes from its key, so a batch may hold any slots. Flows are integrated by
the loop in flow.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from raydistill import seeding
from raydistill.diffusion.prediction import Prediction
from raydistill.diffusion.schedule import Opening, Placed, Step
from raydistill.diffusion.start import NOISE, Start, mixed
from raydistill.seeding import NoiseKey

Denoise = Callable[[Tensor, Step, Tensor], Prediction]  # (x_t, step, class_index) -> prediction after CFG


class Sampler(Protocol):
    spaces: tuple[str, ...]
    stochastic: bool

    def step(self, pred: Prediction, mean_shift: Tensor | None, noise: Tensor | None) -> Tensor: ...


class GuidanceTerm(Protocol):
    """Returns what is to be added in `space`: to the posterior mean ("mean") or to the noise estimate ("epsilon").

    `guidance/base.py` is what implements it. `measured`: delta, and numbers by name, (B,) each.
    """

    space: str

    @property
    def window(self) -> Opening: ...

    def delta(self, pred: Prediction, batch: Batch) -> Tensor: ...

    def measured(self, pred: Prediction, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]: ...


Watch = Callable[[Placed, dict[str, Tensor]], None]  # is told of every guided step; numbers by name, (B,) each


@dataclass(frozen=True)
class Batch:
    """Slots sampled together: class_index (B,) int64 of the generator, prototype (B, C, h, w) in generator space.

    `context` holds what the guidance asked to see of the real latents of each slot's class, (B, ...) by name, lengths
    and latents in generator space.
    """

    class_index: Tensor
    prototype: Tensor
    keys: Sequence[NoiseKey]
    context: Mapping[str, Tensor] = field(default_factory=dict)
    kept: dict[str, Tensor] = field(default_factory=dict, init=False, compare=False, repr=False)

    def see(self, name: str) -> Tensor:
        """(B, ...) of the context. Raises ValueError if the guidance did not ask for it, or nobody gave it."""
        if name not in self.context:
            raise ValueError(f"these slots come without {name!r} of their classes, which the guidance needs")
        return self.context[name]

    def once(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """What does not change from step to step, made at its first use. `name` must be the caller's own."""
        if name not in self.kept:
            self.kept[name] = make()
        return self.kept[name]

    def noise(self, purpose: str, step: int, copies: int = 0) -> Tensor:
        """Standard normal (B, C, h, w) of the slots' keys; with `copies`, (B, copies, C, h, w)."""
        shape = (*([copies] if copies else []), *self.prototype.shape[1:])
        drawn = seeding.normal([k.at(purpose, step) for k in self.keys], shape)
        return torch.from_numpy(drawn).to(self.prototype.device)

    def take(self, rows: Sequence[int]) -> Batch:
        """Some of the slots, in the order of `rows`."""
        i = torch.as_tensor(list(rows), device=self.prototype.device)
        context = {name: values[i] for name, values in self.context.items()}
        return Batch(self.class_index[i], self.prototype[i], [self.keys[r] for r in rows], context)


def sample(
    denoise: Denoise,
    steps: Sequence[Step],
    sampler: Sampler,
    guidance: GuidanceTerm | None,
    batch: Batch,
    watch: Watch | None = None,
    start: Start = NOISE,
) -> Tensor:
    """Runs the steps from the start. Returns x_0 (B, C, h, w) float32 in generator space.

    Order at each step: CFG (inside `denoise`), x0_hat, guidance, sampler (METHODS 1.2).
    """
    first = steps[0].alpha_bar
    x = mixed(batch.noise("init", 0), batch.prototype, first**0.5, (1 - first) ** 0.5, start)
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


def measured(guidance: GuidanceTerm, pred: Prediction, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """What a guidance adds, and its numbers. Always among them `push`: |delta| / |the network's part of this step|.

    The network's part is eps_hat itself for a shift of the noise estimate, and the term of eps_hat in the posterior
    mean, beta / sqrt((1 - beta) (1 - alpha_bar)) eps_hat, for a shift of the mean.
    """
    delta, seen = guidance.measured(pred, batch)
    s = pred.step
    part = 1.0 if guidance.space == "epsilon" else s.beta / ((1 - s.beta) * (1 - s.alpha_bar)) ** 0.5
    size = part * torch.linalg.vector_norm(pred.eps_hat.flatten(1), dim=1)
    return delta, {"push": torch.linalg.vector_norm(delta.flatten(1), dim=1) / size.clamp(min=1e-12), **seen}
