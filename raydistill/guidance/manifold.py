"""Manifold guidance (ManifoldGD, arXiv 2602.23295, section 3), as the paper says it and as its release does it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from raydistill.config import GuidanceConfig, ManifoldConfig, Section, Space
from raydistill.diffusion.loop import Batch
from raydistill.diffusion.prediction import Prediction
from raydistill.guidance import ramps
from raydistill.guidance.base import Guidance
from raydistill.guidance.context import Context, Neighbours
from raydistill.guidance.kernels import pull
from raydistill.guidance.tangent import Plane, nearest, plane
from raydistill.registry import register

RELEASED_RADIUS = 0.05
SMALLEST_RADIUS = 0.1  # where the evenly spread half of the release's cloud begins, in latent units


@dataclass(frozen=True)
class TangentNeighbours(Neighbours):
    """The real latents around a prototype, of which the nearest K span the tangent."""

    remedy = "lower it, choose a method without guidance along a manifold, or leave the class out"

    @property
    def asked_by(self) -> str:
        return f"manifold.nearest={self.needed}"


class ManifoldVariant(Guidance):
    """What the two readings share."""

    section: ClassVar[tuple[str, type[Section]] | None] = ("manifold", ManifoldConfig)

    def delta(self, pred: Prediction, batch: Batch) -> Tensor:
        return self.measured(pred, batch)[0]


class TangentProjection(ManifoldVariant):
    """The paper: the pull to the prototype c loses its part normal to the manifold of the real latents.

        g  = grad log k(x0_hat, c)                                         (RBF of width 1: MGD3's c - x0_hat)
        Y  = sqrt(alpha_bar) P + sqrt(1 - alpha_bar) xi                    P: real latents around c within the radius
        U  = d leading directions of the K rows of Y nearest x_t;  g_N = (I - U U^T) g
        g' = g - w_N(t) g_N                                                w_N: `normal_weight`, along its ramp

    g' then enters as MGD3's g does. xi is the network's own eps_hat (`estimate`: then the nearest in Y are the real
    latents nearest x0_hat), one draw for all of P (`shared`), or a draw each (`independent`, which drowns the geometry
    while noise is high). The radius is in units of the median distance of P to c; K points always remain.
    """

    @classmethod
    def context(cls, settings: ManifoldConfig) -> Mapping[str, Context]:
        return {"neighbours": TangentNeighbours(settings.nearest, settings.neighbours)}

    def measured(self, pred: Prediction, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The shift, and per sample: `cosine` of g and the tangent, `distance` of x_t to the plane per sqrt(D),
        `explained` variance of the plane, `removed` share of |g|."""
        s = pred.step
        g = pull(self.settings.kernel, pred.x0_hat, batch.prototype, self.settings.kernel_width)
        local = self.plane(pred, batch)
        flat = g.flatten(1)
        along = local.tangent(flat)
        w = ramps.weight(self.settings.normal_ramp, self.settings.normal_weight, self.window, s)
        kept = flat if w == 0 else flat - w * (flat - along)
        size, left = norm(flat), norm(kept)
        if self.settings.renorm:
            kept = kept * (size / left.clamp(min=1e-12)).unsqueeze(1)
        x = self.noised_at(pred, batch)
        seen = {
            "cosine": norm(along) / size.clamp(min=1e-12),
            "distance": (s.alpha_bar / x.shape[1]) ** 0.5 * norm(local.normal(x - local.mean)),
            "explained": local.explained,
            "removed": 1 - left / size.clamp(min=1e-12),
        }
        return shift(self.space, self.scale, pred, kept.view_as(g)), seen

    def plane(self, pred: Prediction, batch: Batch) -> Plane:
        """The plane of the real latents at the sample, all divided by sqrt(alpha_bar): it has the same directions."""
        s, settings, points = pred.step, self.settings, batch.see("neighbours").flatten(2)
        distance = batch.once("manifold.distance", lambda: norm(points - batch.prototype.flatten(1).unsqueeze(1)))
        lengths = batch.once("manifold.lengths", lambda: points.square().sum(2))
        r = (
            ramps.radius(
                settings.radius_ramp,
                settings.radius or 1.0,
                settings.radius_growth,
                settings.radius_steps,
                self.window,
                s,
            )
            * distance.nanmedian(dim=1, keepdim=True).values
        )
        allowed = distance <= r  # never where a small class was filled up with NaN
        allowed[:, : settings.nearest] = True
        at = self.noised_at(pred, batch)
        if settings.noise != "independent":
            closest, _ = nearest(points, at, settings.nearest, allowed, lengths)
        else:
            xi = batch.noise("manifold", s.index, points.shape[1]).flatten(2).to(points.dtype)
            closest, _ = nearest(points + (1 / s.alpha_bar - 1) ** 0.5 * xi, at, settings.nearest, allowed)
        return plane(closest, settings.tangent_dim)

    def noised_at(self, pred: Prediction, batch: Batch) -> Tensor:
        """x_t / sqrt(alpha_bar) (B, D), less the noise that all latents share, taken from both sides."""
        s = pred.step
        if self.settings.noise == "estimate":
            return pred.x0_hat.flatten(1)
        x = pred.x_t
        if self.settings.noise == "shared":
            x = x - (1 - s.alpha_bar) ** 0.5 * batch.noise("manifold", s.index).to(x.dtype)
        return x.flatten(1) / s.alpha_bar**0.5


class NormalCorrection(ManifoldVariant):
    """The release: the mode pull, plus a pull of x_t onto the plane through points of a synthetic cloud around c.

        P = c + rho u, unit u; half of the radii rho evenly spread from 0.1 to r, half uniform in [0, r]
        Y = sqrt(alpha_bar) P + sqrt(1 - alpha_bar) xi, a fresh xi for every point and step
        mu, U of the K rows of Y nearest x_t;  n = -(I - U U^T)(x_t - mu)
        correction = correction_scale tanh(min |x_t - Y| / bandwidth) n / |n|

    DDPM form: mu_theta += scale sigma_t g + correction. DDIM form: x0_hat += scale g + correction, from which eps_hat
    is derived again. The correction's length is at most correction_scale against |x_t| of about sqrt(D).
    """

    def measured(self, pred: Prediction, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        s, settings = pred.step, self.settings
        g = pull(settings.kernel, pred.x0_hat, batch.prototype, settings.kernel_width)
        x = pred.x_t.flatten(1)
        closest, distance = nearest(self.cloud(pred, batch), x, settings.nearest)
        local = plane(closest, settings.tangent_dim)
        away = local.normal(x - local.mean)
        unit = -away / norm(away).clamp(min=1e-12).unsqueeze(1)
        strength = settings.correction_scale * torch.tanh(distance[:, :1] / settings.bandwidth) * (self.scale > 0)
        correction = (strength * unit).view_as(g)
        seen = {
            "cosine": norm(local.tangent(g.flatten(1))) / norm(g.flatten(1)).clamp(min=1e-12),
            "distance": norm(away) / x.shape[1] ** 0.5,
            "explained": local.explained,
            "correction": norm(correction.flatten(1)) / norm(x),
        }
        if self.space == "mean":
            return self.scale * pred.sigma_t * g + correction, seen
        a, b = s.alpha_bar**0.5, (1 - s.alpha_bar) ** 0.5
        return -(a / b) * (self.scale * g + correction), seen

    def cloud(self, pred: Prediction, batch: Batch) -> Tensor:
        """The noised points of this step, (B, cloud, D)."""
        s, settings = pred.step, self.settings
        r = ramps.radius(
            settings.radius_ramp,
            settings.radius or RELEASED_RADIUS,
            settings.radius_growth,
            settings.radius_steps,
            self.window,
            s,
        )
        like = pred.x_t
        u = batch.noise("cloud.direction", s.index, settings.cloud).flatten(2).to(like.dtype)
        u = u / torch.linalg.vector_norm(u, dim=2, keepdim=True)
        even = torch.linspace(SMALLEST_RADIUS, r, settings.cloud // 2, dtype=like.dtype, device=like.device)
        # a uniform number from the normal at hand: Phi of one entry a point
        z = (
            batch.noise("cloud.radius", s.index, settings.cloud - settings.cloud // 2)
            .flatten(2)[:, :, 0]
            .to(like.dtype)
        )
        rho = torch.cat([even.expand(len(u), -1), r * torch.special.ndtr(z)], dim=1)
        p = batch.prototype.flatten(1).unsqueeze(1) + rho.unsqueeze(2) * u
        xi = batch.noise("cloud.noise", s.index, settings.cloud).flatten(2).to(like.dtype)
        return s.alpha_bar**0.5 * p + (1 - s.alpha_bar) ** 0.5 * xi


VARIANTS: dict[str, type[ManifoldVariant]] = {
    "tangent_projection": TangentProjection,
    "normal_correction": NormalCorrection,
}


@register("guidance", "manifold")
class Manifold(ManifoldVariant):
    """The variant that `manifold.variant` names."""

    @classmethod
    def make(cls, numbers: GuidanceConfig, space: Space, settings: ManifoldConfig | None = None) -> Guidance:
        settings = settings or ManifoldConfig()
        return VARIANTS[settings.variant](numbers, space, settings)

    @classmethod
    def context(cls, settings: ManifoldConfig) -> Mapping[str, Context]:
        return VARIANTS[settings.variant].context(settings)

    @classmethod
    def examples(cls, scale: float, start: float, stop: float) -> Iterator[tuple[GuidanceConfig, Any]]:
        for variant in VARIANTS:
            numbers = GuidanceConfig(scale=scale, start=start, stop=stop)
            yield numbers, ManifoldConfig(variant=variant, cloud=16)  # type: ignore[arg-type]


def shift(space: str, scale: float, pred: Prediction, g: Tensor) -> Tensor:
    """What a pull g adds: scale sigma_t g to the mean (DDPM), -scale sqrt(1 - alpha_bar) g to eps_hat (DDIM)."""
    if space == "mean":
        return scale * pred.sigma_t * g
    return -scale * (1 - pred.step.alpha_bar) ** 0.5 * g


def norm(x: Tensor) -> Tensor:
    """(B, D) -> (B,), or (B, N, D) -> (B, N)."""
    return torch.linalg.vector_norm(x, dim=-1)
