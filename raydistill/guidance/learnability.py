"""Learnability guidance (LGD, arXiv 2604.00519): towards what the current model fails at and a reference can do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn.functional import cross_entropy

from raydistill.config import GuidanceConfig, Search, Section, Space
from raydistill.config.base import Fraction
from raydistill.diffusion.loop import Batch
from raydistill.diffusion.prediction import FlowPrediction, Prediction
from raydistill.diffusion.schedule import Window
from raydistill.guidance.base import Guidance
from raydistill.guidance.gradient import gradient
from raydistill.registry import register

CURRENT, REFERENCE = "current", "reference"  # roles of the classifiers that a curriculum hands over
MEMORY = "memory"  # in a batch's context: latents (B, M, C, h, w) in generator space, NaN where a slot has fewer


class LearnabilityConfig(Section):
    """Used by guidance `learnability` (LGD). The window is its own, and none of section `guidance` is read."""

    scale: Annotated[
        float,
        Field(ge=0, le=1000, description="push up the score, in units of learnability.norm; 0 = none"),
        Search(0.02, 0.5, log=True),
    ] = 0.2
    norm: Annotated[
        Literal["relative", "rms_over_l2", "none"],
        Field(
            description=(
                "relative: the push is scale |eps| long; rms_over_l2: scale sqrt(1 - alpha_bar) rms(eps), with 15 the "
                "paper's; none: scale sqrt(1 - alpha_bar) times the gradient"
            )
        ),
    ] = "relative"
    omega: Annotated[
        float, Field(ge=0, le=100, description="weight of the reference's loss in the score"), Search(0.0, 1.0)
    ] = 0.5
    repulsion: Annotated[
        float,
        Field(
            ge=0,
            le=1000,
            description=(
                "push away from the nearest image in memory; of |eps| if norm=relative, otherwise raw (paper: 50); "
                "0 = none"
            ),
        ),
        Search(0.002, 0.2, log=True),
    ] = 0.01
    clip: Annotated[
        float | None, Field(gt=0, le=1e6, description="both pushes together are at most clip |eps| long; null = any")
    ] = 0.5
    start: Annotated[Fraction, Field(description="window start as a fraction of the noise path, 1 = pure noise")] = 0.9
    stop: Annotated[
        Fraction, Field(description="window stop; it acts while stop < fraction <= start"), Search(0.0, 0.8)
    ] = 0.18
    decoder: Annotated[
        str | None,
        Field(description="diffusers directory of a tiny VAE that decodes for the score; null = the VAE itself"),
    ] = None
    micro_batch: Annotated[int, Field(ge=1, le=4096, description="images whose gradients are in memory at once")] = 8
    checkpointing: Annotated[bool, Field(description="gradients in less memory and more time")] = False

    @model_validator(mode="after")
    def _window_is_a_window(self) -> LearnabilityConfig:
        if self.start <= self.stop:
            raise ValueError(
                f"learnability.start={self.start} must be above learnability.stop={self.stop} (1 = pure noise, "
                "0 = image)"
            )
        return self


@register("guidance", "learnability")
class Learnability(Guidance):
    """eps_hat <- eps_hat - push grad S(x0_hat) / |grad S| + repel grad cos(x0_hat, m), with gradients in x0_hat.

        S(x0) = CE(current(decode(x0)), y) - omega CE(reference(decode(x0)), y)     m: nearest in memory by cosine

    The score -eps / sigma says that S rises against its gradient in eps, and that similarity falls along it: both signs
    are the opposite of the printed ones, which are taken as meant. eps_hat counts as constant: grad_{x_t} S differs
    from grad_{x0_hat} S by 1 / sqrt(alpha_bar), which normalising cancels. In the DDPM mean it is the same shift, times
    how eps_hat stands in the mean. Of flows the velocity is led by the same pushes with |v| for |eps| and 1 - t for
    sqrt(1 - alpha_bar).
    """

    spaces: ClassVar[tuple[Space, ...]] = ("epsilon", "mean", "velocity")
    section: ClassVar[tuple[str, type[Section]] | None] = ("learnability", LearnabilityConfig)

    def __init__(self, numbers: GuidanceConfig, space: Space, settings: LearnabilityConfig | None = None) -> None:
        self.space, self.settings = space, settings or LearnabilityConfig()
        self.window = Window(self.settings.start, self.settings.stop)

    @classmethod
    def acts(cls, numbers: GuidanceConfig, settings: LearnabilityConfig) -> bool:
        return settings.scale > 0 or settings.repulsion > 0

    @classmethod
    def networks(cls, settings: LearnabilityConfig) -> Sequence[str]:
        return roles(settings.omega) if settings.scale > 0 else ()

    @classmethod
    def decoder(cls, settings: LearnabilityConfig) -> str | None:
        return settings.decoder if settings.scale > 0 else None

    @classmethod
    def examples(cls, scale: float, start: float, stop: float) -> Iterator[tuple[GuidanceConfig, Any]]:
        yield GuidanceConfig(), LearnabilityConfig(scale=scale, start=start, stop=stop, micro_batch=2)

    def delta(self, pred: Prediction | FlowPrediction, batch: Batch) -> Tensor:
        return self.measured(pred, batch)[0]

    def measured(self, pred: Prediction | FlowPrediction, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The shift, and per sample: `score` S of the predicted image, `similarity` to the nearest in memory; of a flow
        also `push` |delta| / |v|."""
        if isinstance(pred, FlowPrediction):
            push, seen = self.push(pred.x1_hat, pred.v_hat, 1 - pred.t, batch)
            return push, {"push": norm(push) / norm(pred.v_hat).clamp(min=1e-12), **seen}
        noise_level = (1 - pred.step.alpha_bar) ** 0.5
        push, seen = self.push(pred.x0_hat, pred.eps_hat, noise_level, batch)
        return self.in_space(push, pred), seen

    def push(self, x0: Tensor, estimate: Tensor, noise_level: float, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The way on which the predicted image x0 is sent, in the units of the network's `estimate`, and numbers."""
        size, push = norm(estimate), torch.zeros_like(x0)
        seen: dict[str, Tensor] = {}
        if self.settings.scale > 0:
            seen["score"], slope = self.score(x0, batch)
            push = push + self.length(size, slope, noise_level) * slope
        memory = batch.context.get(MEMORY)
        if self.settings.repulsion > 0 and memory is not None and memory.shape[1] > 0:
            seen["similarity"], away = nearest(x0, memory.to(x0.dtype))
            strength = size * norm(x0) if self.settings.norm == "relative" else torch.ones_like(size)
            push = push - self.settings.repulsion * column(strength, x0) * away
        if self.settings.clip is not None:
            push = push * column((self.settings.clip * size / norm(push).clamp(min=1e-12)).clamp(max=1), push)
        return push, seen

    def in_space(self, push: Tensor, pred: Prediction) -> Tensor:
        """A push, which is one of -eps_hat, as a shift of the noise estimate or of the posterior mean."""
        if self.space == "epsilon":
            return -push
        s = pred.step
        return s.beta / ((1 - s.beta) * (1 - s.alpha_bar)) ** 0.5 * push

    def length(self, size: Tensor, slope: Tensor, noise_level: float) -> Tensor:
        """By what the gradient (B, C, h, w) is multiplied, where the network's estimate is `size` (B,) long."""
        if self.settings.norm == "none":
            return column(torch.full_like(size, self.settings.scale * noise_level), slope)
        if self.settings.norm == "rms_over_l2":
            size = size * noise_level / slope[0].numel() ** 0.5
        return column(self.settings.scale * size / norm(slope).clamp(min=1e-12), slope)

    def score(self, x0: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """S (B,) of predicted images (B, C, h, w) in generator space, and its gradient."""
        needed = roles(self.settings.omega)
        columns = [self.bound.columns(role, batch.class_index) for role in needed]

        def of(x: Tensor, *labels: Tensor) -> Tensor:
            pixels = self.bound.decode(x, self.settings.checkpointing)
            logits = [self.bound.logits(role, pixels, self.settings.checkpointing) for role in needed]
            return learnability(logits, labels, self.settings.omega)

        return gradient(of, x0, *columns, micro_batch=self.settings.micro_batch)


def roles(omega: float) -> tuple[str, ...]:
    """Whose losses a score is made of."""
    return (CURRENT, REFERENCE) if omega > 0 else (CURRENT,)


def learnability(logits: Sequence[Tensor], columns: Sequence[Tensor], omega: float) -> Tensor:
    """S (B,) of the logits (B, K) of the current model and, if omega > 0, of the reference; columns (B,) are true."""
    losses = [cross_entropy(z, y, reduction="none") for z, y in zip(logits, columns, strict=True)]
    return losses[0] - omega * losses[1] if len(losses) > 1 else losses[0]


def nearest(x: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine (B,) of each x (B, C, h, w) to the nearest of its memory (B, M, C, h, w), M > 0, and its gradient in x.

    Rows of NaN are no members; without any the cosine is -1 and the gradient 0.
    """
    flat, members = x.flatten(1), memory.flatten(2)
    unit = flat / norm(x).clamp(min=1e-12).unsqueeze(1)
    lengths = torch.linalg.vector_norm(members, dim=2, keepdim=True)
    members = members / lengths.clamp(min=1e-12)
    cosines = torch.einsum("bd,bmd->bm", unit, members)
    cosines = torch.where(cosines.isnan(), torch.full_like(cosines, -1.0), cosines)
    most, which = cosines.max(dim=1)
    m = members[torch.arange(len(x), device=x.device), which].nan_to_num()
    slope = (m - most.unsqueeze(1) * unit) / norm(x).clamp(min=1e-12).unsqueeze(1)
    slope = slope * (m != 0).any(dim=1, keepdim=True)
    return most, slope.view_as(x)


def norm(x: Tensor) -> Tensor:
    """(B, C, h, w) -> (B,)."""
    return torch.linalg.vector_norm(x.flatten(1), dim=1)


def column(values: Tensor, like: Tensor) -> Tensor:
    """(B,) to be multiplied with `like` (B, ...)."""
    return values.view(-1, *[1] * (like.ndim - 1))
