"""Baseline: unguided samples of the class-conditional generator (DiT, Peebles & Xie 2023)."""

from __future__ import annotations

from raydistill.methods.base import ClassView, Method, Slot
from raydistill.registry import register


@register("method", "dit")
class Unguided(Method):
    summary = "unguided samples of the generator"

    def slots(self, view: ClassView, ipc: int, seed: int) -> list[Slot]:
        return [Slot() for _ in range(ipc)]
