"""Path guidance: the velocity of a flow is led to a prototype (PGFM, arXiv 2602.05616, read from its abstract)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor

from raydistill.config import GuidanceConfig, PathConfig, Section
from raydistill.diffusion.loop import Batch
from raydistill.diffusion.prediction import FlowPrediction
from raydistill.diffusion.schedule import Window
from raydistill.registry import register


@register("guidance", "path")
class Path:
    """v <- v + Delta,  Delta = w(t) (p - x1_hat) / (1 - t),  w(t) = w_max (1 - t / t_stop)^power below t_stop.

    The same as (1 - w) v + w (p - x_t) / (1 - t), a blend of the model's flow and the straight way to p; the predicted
    image moves by the share w of its way to p, whatever the step size. w = 1 throughout lands on p, w = 0 is the flow.
    Trust regions, for each sample: |Delta| <= tau |v|, and of the predicted image (1 - t) |Delta| <= rho d, where d is
    the median distance of the class's real latents to their mean. Warm start: x_t0 = (1 - t0) noise + t0 p.
    """

    section: ClassVar[str] = "path"
    forms: ClassVar[tuple[str, ...]] = ("velocity",)

    def __init__(self, config: GuidanceConfig, form: str, own: PathConfig | None = None) -> None:
        self.space, self.own = form, own or PathConfig()
        self.t0 = self.own.t0
        self.window = Window(1.0, 1.0 - self.own.t_stop)

    @staticmethod
    def acts(own: Section) -> bool:
        return isinstance(own, PathConfig) and (own.w_max > 0 or own.t0 > 0)

    @staticmethod
    def spread(own: PathConfig) -> bool:
        """Whether it asks for the spread of the class."""
        return own.rho is not None

    def weight(self, t: float) -> float:
        """w(t)."""
        return self.own.w_max * max(1 - t / self.own.t_stop, 0.0) ** self.own.power if t < self.own.t_stop else 0.0

    def delta(self, pred: FlowPrediction, batch: Batch) -> Tensor:
        return self.measured(pred, batch)[0]

    def measured(self, pred: FlowPrediction, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Delta, and per sample: `push` |Delta| / |v|, `trusted` share of it that the trust regions leave, `ahead` the
        distance of the network's predicted image to the prototype, per sqrt(D)."""
        way = batch.prototype - pred.x1_hat
        delta = self.weight(pred.t) / (1 - pred.t) * way
        asked, size = norm(delta), norm(pred.v_hat).clamp(min=1e-12)
        trusted = torch.ones_like(asked)
        for room in self.regions(pred, batch, size):
            trusted = torch.minimum(trusted, room / asked.clamp(min=1e-12))
        if (self.own.tau, self.own.rho) != (None, None):
            delta = delta * trusted.view(-1, *[1] * (delta.ndim - 1))
        ahead = norm(way) / way[0].numel() ** 0.5
        return delta, {"push": asked * trusted / size, "trusted": trusted, "ahead": ahead}

    def regions(self, pred: FlowPrediction, batch: Batch, size: Tensor) -> Iterator[Tensor]:
        """The longest Delta that each trust region allows, (B,). `size` is |v|."""
        if self.own.tau is not None:
            yield self.own.tau * size
        if self.own.rho is not None:
            if batch.spread is None:
                raise ValueError("path.rho needs the spread of each slot's class")
            yield self.own.rho / (1 - pred.t) * batch.spread.to(size.dtype)


def norm(x: Tensor) -> Tensor:
    """(B, C, h, w) -> (B,)."""
    return torch.linalg.vector_norm(x.flatten(1), dim=1)
