"""Distillation as optimal quantisation: the atoms of a class, noised and denoised (D4M, DDOQ)."""

from __future__ import annotations

from typing import ClassVar

from raydistill.diffusion.start import Start
from raydistill.methods.base import ClassView, Method, Slot, in_turn
from raydistill.registry import register

# alpha_bar / (1 - alpha_bar) where D4M begins: strength 0.7 of 50 steps of Stable Diffusion's PNDM scheduler, t = 701.
D4M_SNR = 0.0892


@register("method", "ddoq")
class Ddoq(Method):
    """CLVQ's atoms, each the beginning of one image (DDOQ, arXiv 2501.07681, algorithm 1)."""

    summary = "optimal quantisation: atoms of a stream, noised and denoised, weighed by the roots of their masses"
    uses_prototypes = True
    clustering = "clvq"
    start = Start(snr=D4M_SNR)
    weights: ClassVar[str | None] = "sqrt"

    def slots(self, view: ClassView, ipc: int, seed: int) -> list[Slot]:
        return in_turn(view, ipc)


@register("method", "d4m")
class D4m(Ddoq):
    """Its baseline: mini-batch k-means, every image of the same weight (D4M, arXiv 2407.15138)."""

    summary = "mini-batch k-means, centroids noised and denoised (D4M)"
    clustering = "minibatch"
    weights = "uniform"
