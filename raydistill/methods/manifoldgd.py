"""ManifoldGD (arXiv 2602.23295): prototypes of a divisive hierarchy, guidance kept to the manifold of real latents."""

from __future__ import annotations

from raydistill.methods.mgd3 import Mgd3
from raydistill.registry import register


@register("method", "manifoldgd")
class ManifoldGd(Mgd3):
    """As MGD3 in its DDPM form, with guidance `manifold`: section `manifold` says in which reading."""

    summary = "mode guidance along the manifold of real latents (ManifoldGD)"
    clustering = "divisive"
    guidance = "manifold"
