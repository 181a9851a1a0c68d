"""Baseline: real images that leave no image of the class far from all of them (k-centre, Sener & Savarese 2018)."""

from __future__ import annotations

from raydistill.clustering import selection
from raydistill.methods.base import ClassView, Method, Slot, pick_real
from raydistill.registry import register


@register("method", "kcenter")
class KCenter(Method):
    """Slot j is pick j, so a smaller IPC is the beginning of a larger one."""

    summary = "real images that cover the class, farthest first (k-centre)"
    uses_points = True
    generates = False

    def slots(self, view: ClassView, ipc: int, seed: int) -> list[Slot]:
        pick_real(view, ipc, "kcenter")
        return [Slot(image_id=view.image_ids[i]) for i in selection.kcenter(view.points, ipc)]
