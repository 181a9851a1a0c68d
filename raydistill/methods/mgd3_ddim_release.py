"""MGD3 under DDIM as a release does it: the copy of its sampler in ManifoldGD's code, without the manifold term."""

from __future__ import annotations

from raydistill.methods.mgd3 import Mgd3
from raydistill.registry import register


@register("method", "mgd3_ddim_release")
class Mgd3DdimRelease(Mgd3):
    """x0_hat is moved by scale * (m - x0_hat) and eps_hat derived from it again, then the ordinary DDIM step."""

    summary = "mode guidance to k-means centroids, DDIM form of the release (moves the predicted image)"
    guidance = "mode_x0"
    sampler = "ddim"
    form = "epsilon"
