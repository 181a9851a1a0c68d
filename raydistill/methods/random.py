"""Baseline: real images drawn at random, without replacement."""

from __future__ import annotations

from raydistill.methods.base import ClassView, Method, Slot, pick_real
from raydistill.registry import register
from raydistill.seeding import generator


@register("method", "random")
class Random(Method):
    summary = "real images drawn at random"
    generates = False

    def slots(self, view: ClassView, ipc: int, seed: int) -> list[Slot]:
        pick_real(view, ipc, "random")
        order = generator("method.random", seed, view.class_id).permutation(len(view.image_ids))
        return [Slot(image_id=view.image_ids[i]) for i in order[:ipc]]
