"""Path guidance: the velocity of a flow is led to a prototype (PGFM, arXiv 2602.05616, read from its abstract)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from raydistill.config import GuidanceConfig, PathConfig, Section, Space
from raydistill.diffusion.loop import Batch
from raydistill.diffusion.prediction import FlowPrediction
from raydistill.diffusion.schedule import Window
from raydistill.diffusion.start import Start
from raydistill.guidance.base import Guidance
from raydistill.guidance.context import ClassRadius, Context
from raydistill.registry import register


class PathRadius(ClassRadius):
    """The radius of a class, as rho asks for it."""

    remedy = "set it to null, or leave the class out with source.classes=[...]"

    @property
    def asked_by(self) -> str:
        return "path.rho"


@register("guidance", "path")
class Path(Guidance):
    """v <- v + Delta,  Delta = w(t) (p - x1_hat) / (1 - t),  w(t) = w_max (1 - t / t_stop)^power below t_stop.

    The same as (1 - w) v + w (p - x_t) / (1 - t), a blend of the model's flow and the straight way to p; the predicted
    image moves by the share w of its way to p, whatever the step size. w = 1 throughout lands on p, w = 0 is the flow.
    Trust regions, for each sample: |Delta| <= tau |v|, and of the predicted image (1 - t) |Delta| <= rho d, where d is
    the median distance of the class's real latents to their mean. Warm start: x_t0 = (1 - t0) noise + t0 p.
    """

    section: ClassVar[tuple[str, type[Section]] | None] = ("path", PathConfig)
    spaces: ClassVar[tuple[Space, ...]] = ("velocity",)

    def __init__(self, numbers: GuidanceConfig, space: Space, settings: PathConfig | None = None) -> None:
        self.space, self.settings = space, settings or PathConfig()
        self.window = Window(1.0, 1.0 - self.settings.t_stop)

    @classmethod
    def acts(cls, numbers: GuidanceConfig, settings: PathConfig) -> bool:
        return settings.w_max > 0 or settings.t0 > 0

    @classmethod
    def context(cls, settings: PathConfig) -> Mapping[str, Context]:
        return {} if settings.rho is None else {"radius": PathRadius()}

    @classmethod
    def start(cls, settings: PathConfig) -> Start:
        return Start(settings.t0)

    @classmethod
    def examples(cls, scale: float, start: float, stop: float) -> Iterator[tuple[GuidanceConfig, Any]]:
        settings = PathConfig(w_max=scale, t_stop=1 - stop, power=0.0, t0=0.0, tau=None)
        yield GuidanceConfig(), settings
        yield GuidanceConfig(), settings.model_copy(update={"rho": 1e6})

    def weight(self, t: float) -> float:
        """w(t)."""
        return (
            self.settings.w_max * max(1 - t / self.settings.t_stop, 0.0) ** self.settings.power
            if t < self.settings.t_stop
            else 0.0
        )

    def delta(self, pred: FlowPrediction, batch: Batch) -> Tensor:
        return self.measured(pred, batch)[0]

    def measured(self, pred: FlowPrediction, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Delta, and per sample: `push` |Delta| / |v|, `trusted` share of it that the trust regions leave, `ahead` the
        distance of the network's predicted image to the prototype, per sqrt(D)."""
        to_prototype = batch.prototype - pred.x1_hat
        delta = self.weight(pred.t) / (1 - pred.t) * to_prototype
        requested, size = norm(delta), norm(pred.v_hat).clamp(min=1e-12)
        trusted = torch.ones_like(requested)
        for room in self.regions(pred, batch, size):
            trusted = torch.minimum(trusted, room / requested.clamp(min=1e-12))
        if (self.settings.tau, self.settings.rho) != (None, None):
            delta = delta * trusted.view(-1, *[1] * (delta.ndim - 1))
        ahead = norm(to_prototype) / to_prototype[0].numel() ** 0.5
        return delta, {"push": requested * trusted / size, "trusted": trusted, "ahead": ahead}

    def regions(self, pred: FlowPrediction, batch: Batch, size: Tensor) -> Iterator[Tensor]:
        """The longest Delta that each trust region allows, (B,). `size` is |v|."""
        if self.settings.tau is not None:
            yield self.settings.tau * size
        if self.settings.rho is not None:
            yield self.settings.rho / (1 - pred.t) * batch.see("radius").to(size.dtype)


def norm(x: Tensor) -> Tensor:
    """(B, C, h, w) -> (B,)."""
    return torch.linalg.vector_norm(x.flatten(1), dim=1)
