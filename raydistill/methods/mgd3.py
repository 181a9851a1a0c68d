"""MGD3: mode-guided diffusion (arXiv 2505.18963): one trajectory per k-means centroid, pulled to it early on."""

from __future__ import annotations

from typing import ClassVar

from raydistill.config import Space
from raydistill.methods.base import ClassView, Method, Slot, in_turn
from raydistill.registry import register


@register("method", "mgd3")
class Mgd3(Method):
    """DDPM form, as released: the posterior mean is shifted by scale * sigma_t * (m - x0_hat)."""

    summary = "mode guidance to k-means centroids, DDPM form (the release)"
    uses_prototypes = True
    guidance = "mode"
    sampler = "ddpm"
    form: ClassVar[Space | None] = "mean"

    def slots(self, view: ClassView, ipc: int, seed: int) -> list[Slot]:
        return in_turn(view, ipc)


@register("method", "mgd3_ddim")
class Mgd3Ddim(Mgd3):
    """DDIM form, the paper's algorithm 1: eps_hat is shifted by -scale * sqrt(1 - alpha_bar_t) * (m - x0_hat)."""

    summary = "mode guidance to k-means centroids, DDIM form (the paper's algorithm 1)"
    sampler = "ddim"
    form = "epsilon"
