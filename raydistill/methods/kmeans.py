"""Baseline: the real image nearest each k-means centroid of the class's latents."""

from __future__ import annotations

from raydistill.errors import BadInput
from raydistill.methods.base import ClassView, Method, Slot, pick_real
from raydistill.registry import register


@register("method", "kmeans")
class NearestReal(Method):
    summary = "the real image nearest each k-means centroid"
    uses_prototypes = True
    generates = False

    def slots(self, view: ClassView, ipc: int, seed: int) -> list[Slot]:
        pick_real(view, ipc, "kmeans")
        if len(view.medoids) < ipc:
            raise BadInput(
                f"class {view.class_id!r} has only {len(view.medoids)} distinct latents for ipc={ipc}; "
                "remove duplicate images or lower ipc"
            )
        if len(set(view.medoids[:ipc])) < ipc:
            raise BadInput(
                f"class {view.class_id!r}: nodes of a tree share the real image that is nearest them, and a set holds "
                "each once; choose hierarchy.selection=leaves, or cluster.algorithm=kmeans"
            )
        return [Slot(j, view.centroids[j], view.medoids[j]) for j in range(ipc)]
