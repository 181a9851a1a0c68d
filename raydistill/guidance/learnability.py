"""Learnability guidance (LGD, arXiv 2604.00519): towards what the current model fails at and a reference can do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, cross_entropy

from raydistill.config import GuidanceConfig, Search, Section, Space
from raydistill.config.base import Fraction
from raydistill.diffusion.loop import Batch
from raydistill.diffusion.prediction import FlowPrediction, Prediction
from raydistill.diffusion.schedule import Placed, Window
from raydistill.errors import BadInput
from raydistill.guidance.base import Guidance
from raydistill.guidance.gradient import gradient
from raydistill.registry import register

LED = 6  # times that a path of diffusion is led, or a few more, unless learnability.every says otherwise
SHRUNK = 2  # at most, unless learnability.shrink says otherwise: what more does was not measured
CURRENT, REFERENCE = "current", "reference"  # roles of the classifiers that a curriculum hands over
MEMORY = "memory"  # in a batch's context: latents (B, M, C, h, w) in generator space, NaN where a slot has fewer


class LearnabilityConfig(Section):
    """Used by guidance `learnability` (LGD). The window is its own, and none of section `guidance` is read."""

    later: ClassVar[frozenset[str]] = frozenset({"space", "through_denoiser", "every", "shrink"})

    scale: Annotated[
        float,
        Field(
            ge=0,
            le=1000,
            description="push up the score of a step, in units of learnability.norm, times every; 0 = none",
        ),
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
                "push of a step away from the nearest image in memory; of |eps| if norm=relative, otherwise raw "
                "(paper: 50); 0 = none"
            ),
        ),
        Search(0.002, 0.2, log=True),
    ] = 0.01
    clip: Annotated[
        float | None,
        Field(
            gt=0,
            le=1e6,
            description="both pushes of a step together are at most clip |eps| long, times every; null = any",
        ),
    ] = 0.5
    start: Annotated[Fraction, Field(description="window start as a fraction of the noise path, 1 = pure noise")] = 0.9
    stop: Annotated[
        Fraction, Field(description="window stop; it acts while stop < fraction <= start"), Search(0.0, 0.8)
    ] = 0.18
    every: Annotated[
        int | None,
        Field(
            ge=1,
            le=1000,
            description="it acts at each so-many-th step of its window (those whose index it divides), and pushes "
            "there for all of them: cheaper by as much, of diffusion only; null = so that it acts at 6 steps or a few "
            "more, of a flow, or from a level (start.snr), at each",
        ),
    ] = None
    space: Annotated[
        Literal["pixel", "latent"],
        Field(description="what its classifiers see: decoded images, or latents, which is far cheaper"),
    ] = "pixel"
    through_denoiser: Annotated[
        bool,
        Field(
            description="gradients in x_t, through the generator, which is asked once more; false: its noise estimate "
            "counts as constant"
        ),
    ] = False
    decoder: Annotated[
        str | None,
        Field(description="diffusers directory of a tiny VAE that decodes for the score; null = the VAE itself"),
    ] = None
    shrink: Annotated[
        int | None,
        Field(
            ge=1,
            le=16,
            description="a side of the predicted latents is averaged down so many times before it is decoded for the "
            "score; null = 2 where an lgd's students see half of an image's side or less and train its reference, "
            "otherwise 1: whole",
        ),
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
        if self.space == "latent" and self.decoder is not None:
            raise ValueError("learnability.decoder decodes for learnability.space=pixel; leave one of the two out")
        if self.space == "latent" and (self.shrink or 1) > 1:
            raise ValueError("learnability.shrink is of what learnability.space=pixel decodes; leave one of them out")
        return self

    def read(self, exclude: AbstractSet[str] = frozenset()) -> dict[str, Any]:
        """As `Section.read`. Acting at each step, on whole images, is as before there were `every` and `shrink`;
        `summed` says that a push is for all steps that it stands for, which once it was not."""
        values = super().read(exclude)
        for key in ("every", "shrink"):
            if values.get(key) == 1:
                del values[key]
        return values | ({"summed": True} if "every" in values else {})


@register("guidance", "learnability")
class Learnability(Guidance):
    """eps_hat <- eps_hat - push grad S(x0_hat) / |grad S| + repel grad cos(x0_hat, m), with gradients in x0_hat.

        S(x0) = CE(current(decode(x0)), y) - omega CE(reference(decode(x0)), y)     m: nearest in memory by cosine

    The score -eps / sigma says that S rises against its gradient in eps, and that similarity falls along it: both signs
    are the opposite of the printed ones, which are taken as meant. eps_hat counts as constant: grad_{x_t} S differs
    from grad_{x0_hat} S by 1 / sqrt(alpha_bar), which normalising cancels. With `through_denoiser` it is what the
    generator makes of x_t, and the gradient is sqrt(alpha_bar) grad_{x_t} S. In the DDPM mean it is the same shift,
    times how eps_hat stands in the mean. Of flows the velocity is led by the same pushes with |v| for |eps| and 1 - t
    for sqrt(1 - alpha_bar).
    """

    spaces: ClassVar[tuple[Space, ...]] = ("epsilon", "mean", "velocity")
    section: ClassVar[tuple[str, type[Section]] | None] = ("learnability", LearnabilityConfig)

    def __init__(self, numbers: GuidanceConfig, space: Space, settings: LearnabilityConfig | None = None) -> None:
        """Raises BadInput for every > 1 of a flow, within whose intervals samplers ask at times that have no index."""
        self.space, self.settings = space, settings or LearnabilityConfig()
        self.every = self.settings.every or 1
        if space == "velocity" and self.every > 1:
            raise BadInput(
                f"learnability.every={self.every} counts steps of diffusion, and this sampler walks a flow; "
                "leave it out, or take fewer sampler.steps"
            )
        self.window = Window(self.settings.start, self.settings.stop, self.every)

    @classmethod
    def settled(
        cls, settings: LearnabilityConfig, space: Space, steps: int | None, larger: int = 1
    ) -> LearnabilityConfig:
        """With `every` as many as leave LED steps of the window, or a few more, and `shrink` as its classifiers see."""
        decodes = settings.scale > 0 and settings.space == "pixel"
        shrink = (settings.shrink or min(larger, SHRUNK)) if decodes else None
        if settings.every is not None:
            return settings.model_copy(update={"shrink": shrink})
        inside = 0 if space == "velocity" or steps is None else Window(settings.start, settings.stop).count(steps)
        return settings.model_copy(update={"every": max(1, inside // LED), "shrink": shrink})

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
    def differentiates(cls, settings: LearnabilityConfig) -> bool:
        return settings.through_denoiser and settings.scale > 0

    @classmethod
    def examples(cls, scale: float, start: float, stop: float) -> Iterator[tuple[GuidanceConfig, Any]]:
        settings = LearnabilityConfig(scale=scale, start=start, stop=stop, micro_batch=2)
        for more in ({}, {"space": "latent"}, {"through_denoiser": True}):
            yield GuidanceConfig(), settings.model_copy(update=more)

    def calls_at(self, step: Placed) -> int:
        return int(self.differentiates(self.settings) and self.window.active(step))

    def delta(self, pred: Prediction | FlowPrediction, batch: Batch) -> Tensor:
        return self.measured(pred, batch)[0]

    def measured(self, pred: Prediction | FlowPrediction, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The shift, and per sample: `score` S of the predicted image, `similarity` to the nearest in memory; of a flow
        also `push` |delta| / |v|."""
        if isinstance(pred, FlowPrediction):
            push, seen = self.push(pred, pred.x1_hat, pred.v_hat, 1 - pred.t, batch)
            return push, {"push": norm(push) / norm(pred.v_hat).clamp(min=1e-12), **seen}
        noise_level = (1 - pred.step.alpha_bar) ** 0.5
        push, seen = self.push(pred, pred.x0_hat, pred.eps_hat, noise_level, batch)
        return self.in_space(push, pred), seen

    def push(
        self, pred: Prediction | FlowPrediction, x0: Tensor, estimate: Tensor, noise_level: float, batch: Batch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The way on which the predicted image x0 is sent, in the units of the network's `estimate`, and numbers."""
        size, push = norm(estimate), torch.zeros_like(x0)
        seen: dict[str, Tensor] = {}
        if self.settings.scale > 0:
            through = self.settings.through_denoiser
            seen["score"], slope = self.score_through(pred, batch) if through else self.score(x0, batch)
            push = push + self.length(size, slope, noise_level) * slope
        memory = batch.context.get(MEMORY)
        if self.settings.repulsion > 0 and memory is not None and memory.shape[1] > 0:
            seen["similarity"], away = nearest(x0, memory.to(x0.dtype))
            strength = size * norm(x0) if self.settings.norm == "relative" else torch.ones_like(size)
            push = push - self.settings.repulsion * column(strength, x0) * away
        if self.settings.clip is not None:
            push = push * column((self.settings.clip * size / norm(push).clamp(min=1e-12)).clamp(max=1), push)
        return push * self.every, seen

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
        return self._scored(x0, batch, lambda x, _: x)

    def score_through(self, pred: Prediction | FlowPrediction, batch: Batch) -> tuple[Tensor, Tensor]:
        """S (B,) of what the generator predicts at x_t, and its gradient in x_t as far as it moves the predicted image:
        with a constant network it is that of `score`."""
        ask = self.bound.denoiser
        if ask is None:
            raise ValueError("learnability.through_denoiser asks the generator, and this guidance is bound to none")
        if isinstance(pred, FlowPrediction):
            t = pred.t
            return self._scored(pred.x_t, batch, lambda x, index: x + (1 - t) * ask.velocity_with_grad(x, t, index))
        step = pred.step
        score, slope = self._scored(pred.x_t, batch, lambda x, index: ask.with_grad(x, step, index).x0_hat)
        return score, slope * step.alpha_bar**0.5

    def shown(self, x0: Tensor) -> Tensor:
        """What the classifiers see of predicted images (B, C, h, w) in generator space."""
        if self.settings.space == "latent":
            return self.bound.latents(x0)
        return self.bound.decode(smaller(x0, self.settings.shrink or 1), self.settings.checkpointing)

    def _scored(self, x: Tensor, batch: Batch, predicted: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """S (B,) of the images that are predicted of x (B, C, h, w) and classes (B,), and its gradient in x."""
        needed, saving = roles(self.settings.omega), self.settings.checkpointing
        columns = [self.bound.columns(role, batch.class_index) for role in needed]

        def of(x: Tensor, index: Tensor, *labels: Tensor) -> Tensor:
            x0 = predicted(x, index)
            shown = self.shown(x0)
            logits = [self.bound.logits(role, shown, saving) for role in needed]
            return learnability(logits, labels, self.settings.omega)

        return gradient(of, x, batch.class_index, *columns, micro_batch=self.settings.micro_batch)


def smaller(x: Tensor, times: int) -> Tensor:
    """Latents (B, C, h, w) averaged over squares of `times` a side: (B, C, h / times, w / times), of which an image as
    many times smaller is decoded. A side is at least 1."""
    side = [max(1, n // times) for n in x.shape[-2:]]
    return x if times == 1 else adaptive_avg_pool2d(x, side)


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
