"""Baseline: real images whose mean latent follows the mean of the class (herding, Welling 2009)."""

from __future__ import annotations

from raydistill.clustering import selection
from raydistill.methods.base import ClassView, Method, Slot, pick_real
from raydistill.registry import register


@register("method", "herding")
class Herding(Method):
    """Slot j is pick j, so a smaller IPC is the beginning of a larger one."""

    summary = "real images whose mean follows the class mean (herding)"
    uses_points = True
    generates = False

    def slots(self, view: ClassView, ipc: int, seed: int) -> list[Slot]:
        pick_real(view, ipc, "herding")
        return [Slot(image_id=view.image_ids[i]) for i in selection.herding(view.points, ipc)]
