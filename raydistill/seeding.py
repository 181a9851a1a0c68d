"""Counter-based randomness: a draw depends on its key alone.

The key is hashed to the 128-bit key of a Philox generator, so a sample's noise is the same bit for bit whatever the
batch, the actor, the order or the run that computes it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from raydistill.identity import canonical


def generator(*key: object) -> np.random.Generator:
    """A numpy Generator that is a pure function of `key` (JSON-able parts)."""
    raw = hashlib.blake2b(canonical(list(key)).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(raw, dtype=np.uint64)))


@dataclass(frozen=True)
class NoiseKey:
    """Everything the noise of one sample may depend on."""

    seed: int
    class_id: str
    slot: int
    increment: int = 0
    candidate: int = 0
    purpose: str = "init"
    step: int = 0

    def at(self, purpose: str, step: int) -> NoiseKey:
        return replace(self, purpose=purpose, step=step)

    @classmethod
    def of(cls, text: str) -> NoiseKey:
        """The key of a sample from its `text`; a class id may hold any sign. Raises ValueError for another text."""
        seed, _, rest = text.partition("/")
        class_id, slot, increment, candidate = rest.rsplit("/", 3)
        return cls(int(seed), class_id, int(slot), int(increment), int(candidate))

    def parts(self) -> tuple[int | str, ...]:
        return (self.seed, self.class_id, self.slot, self.increment, self.candidate, self.purpose, self.step)

    def text(self) -> str:
        """Provenance form without purpose and step: the identity of a sample."""
        return f"{self.seed}/{self.class_id}/{self.slot}/{self.increment}/{self.candidate}"


def normal(keys: Iterable[NoiseKey], shape: Sequence[int]) -> np.ndarray:
    """Standard normal noise, one independent stream a key. Returns float32 (B, *shape)."""
    return np.stack([generator(*k.parts()).standard_normal(tuple(shape), dtype=np.float32) for k in keys])
