"""PGFM: path-guided flow matching (arXiv 2602.05616): few deterministic steps of a flow, each led to a centroid."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment

from raydistill import seeding
from raydistill.config import Config
from raydistill.methods.base import ClassView, Method, Slot
from raydistill.methods.mgd3 import Mgd3
from raydistill.registry import register


@register("method", "pgfm")
class Pgfm(Mgd3):
    """MGD3's prototypes, guidance `path`, and a flow sampler. `pairing` says which slot gets which prototype."""

    summary = "a flow led to k-means centroids in few steps (PGFM)"
    guidance = "path"
    sampler = "euler"
    form = "velocity"
    steps = 8

    def __init__(self, pairing: str = "optimal") -> None:
        self.pairing = pairing
        self.options = (pairing,)

    @classmethod
    def of(cls, config: Config) -> Method:
        return cls(config.path.pairing)

    def slots(self, view: ClassView, ipc: int, seed: int) -> list[Slot]:
        """Slot j's noise is drawn where it will be sampled from, and prototypes are handed out to slots by it.

        `random` leaves them in their order, of which noise knows nothing.
        """
        slots = super().slots(view, ipc, seed)
        if self.pairing == "random":
            return slots
        noise = seeding.normal(view.keys(ipc, seed), view.centroids.shape[1:])
        order = pair(noise, np.stack([view.centroids[s.prototype_id] for s in slots]))
        return [slots[k] for k in order]


def pair(noise: np.ndarray, prototypes: np.ndarray) -> np.ndarray:
    """For each row of noise (N, ...) the row of prototypes (N, ...) that is its: (N,) int64, each prototype once.

    The sum of squared distances is least. It differs from -2 noise . prototype by what no pairing changes, and so does
    not depend on the scale of the prototypes either.
    """
    eps, p = (x.reshape(len(x), -1).astype(np.float64) for x in (noise, prototypes))
    return linear_sum_assignment(-eps @ p.T)[1]
