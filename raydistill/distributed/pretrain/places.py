"""The places of a training's workers: whose number is part of the bytes, so that no fit goes on with fewer."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import ray

from raydistill.distributed import fits
from raydistill.distributed.resources import Room
from raydistill.errors import StageFailed
from raydistill.progress import say

LOOK_S = 5.0


def room() -> Room:
    """What the cluster has now."""
    have = ray.cluster_resources()
    return Room(have.get("CPU", 0.0), have.get("GPU", 0.0))


def fitted(make: Callable[[], Any], probe: Callable[[], None], every_s: float, places: Places, retries: int) -> Any:
    """The result of a trainer's fit, or of as many as it takes until all workers have a place.

    Each goes on from the last state. Raises StageFailed when places that were there are gone and nobody replaces them,
    fits.Unplaced when there were none so often.
    """

    def both() -> None:
        probe()
        places.probe()

    unplaced = 0
    while True:
        try:
            return fits.fit(make(), both, every_s, fits.PLACED_S)
        except fits.Unplaced as e:
            if places.were_there and not e.died:
                raise StageFailed(
                    f"pretrain: no place for {places} for {fits.PLACED_S:g} s; add a node, or wait until other jobs "
                    "give theirs back, and run the same command again: it goes on from its last checkpoint (another "
                    "pretrain.workers would begin anew)"
                ) from e
            unplaced += 1
            if unplaced > retries:
                raise


class Places:
    """Each worker's is a GPU, if the training began with any, otherwise a CPU. A loss is said at once."""

    def __init__(self, workers: int, gpu: bool) -> None:
        self.workers, self.gpu = workers, gpu
        self.have, self.were_there, self.looked = 0.0, False, -LOOK_S

    def __str__(self) -> str:
        return f"{self.workers} workers, a {'GPU' if self.gpu else 'CPU'} each (the cluster has {self.have:g})"

    def probe(self) -> None:
        if time.monotonic() - self.looked < LOOK_S:
            return
        now, before = room(), self.have
        self.looked, self.have = time.monotonic(), now.gpus if self.gpu else now.cpus
        self.were_there |= self.have >= self.workers
        if self.were_there and self.have < min(self.workers, before):
            say("pretrain", f"places of {self} are lost: it waits up to {fits.PLACED_S:g} s for others")
