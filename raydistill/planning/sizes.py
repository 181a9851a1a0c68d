"""How large things are: latents, pixels, images, and a worker with what it holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from raydistill.config import Config
from raydistill.planning.facts import Facts
from raydistill.planning.networks import NetworkCost, bytes_of

PROCESS = 0.7e9  # bytes of a worker before it has anything to do
PNG_SHARE = 0.55  # of the bytes of the pixels


@dataclass(frozen=True)
class Sizes:
    """Bytes of a latent as it is kept of real images and of syntheses, of pixels, of a PNG of them."""

    half: int
    latent: int
    pixels: int
    png: float

    @classmethod
    def of(cls, config: Config, facts: Facts) -> Sizes:
        pixels = 3 * config.source.image_size**2
        return cls(bytes_of(facts.shape, 2), bytes_of(facts.shape), pixels, PNG_SHARE * pixels)


def worker(held: float, costs: Sequence[NetworkCost], batch: int) -> float:
    """Bytes of a worker: its process, its networks, what it holds, and twice its largest operation on a batch."""
    return PROCESS + sum(c.weights for c in costs) + held + 2 * batch * max((c.largest for c in costs), default=0.0)


def replace_batch(cost: NetworkCost, passes: int) -> NetworkCost:
    """A network that is asked for so many images a slot at once."""
    return replace(cost, largest=cost.largest * passes)
