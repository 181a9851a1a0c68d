"""What a guidance wants to see of the real latents of a class: functions that the sample stage calls once a batch.

A guidance returns them from `context(own)`, by name; their values travel with the slots and are `batch.context[name]`.
Those here are the built-in ones; a guidance may bring one of its own in its own file.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np


@dataclass(frozen=True)
class Context(ABC):
    """A view of the real latents of one class. Subclasses are frozen dataclasses; their fields are its identity."""

    version: ClassVar[int] = 1
    scales: ClassVar[bool] = True  # whether values grow with the latents, as lengths and latents do
    remedy: ClassVar[str] = "choose another guidance, or leave the class out with source.classes=[...]"

    @property
    def asked_by(self) -> str:
        """What a person reads of who wants it: the configuration key, with its value if that is what to change."""
        return type(self).__name__

    @property
    def least(self) -> int:
        """Images that a class must have."""
        return 1

    @abstractmethod
    def of(self, latents: np.ndarray, prototypes: np.ndarray) -> np.ndarray:
        """(B, ...) for the prototypes (B, C, h, w) float32 of a class with latents (N, C, h, w) float16, N >= least.

        Both are in VAE-scaled space. A pure function, row by row in the prototypes. Raises ValueError, with the reason,
        for latents that it cannot be had of.
        """

    def identity(self) -> list[Any]:
        """What its values depend on besides the latents."""
        return [type(self).__name__, self.version, asdict(self)]


@dataclass(frozen=True)
class Neighbours(Context):
    """(B, most, C, h, w) float32: the real latents nearest each prototype, nearest first, NaN where there are fewer."""

    needed: int
    most: int

    @property
    def least(self) -> int:
        return self.needed

    def of(self, latents: np.ndarray, prototypes: np.ndarray) -> np.ndarray:
        return np.stack([around(latents, p, self.most) for p in prototypes])


@dataclass(frozen=True)
class ClassRadius(Context):
    """(B,) float32: the median distance of the class's latents to their mean."""

    @property
    def least(self) -> int:
        return 2

    def of(self, latents: np.ndarray, prototypes: np.ndarray) -> np.ndarray:
        class_radius = radius(latents)
        if not class_radius > 0:
            raise ValueError("all alike: the class has no radius to measure by")
        return np.full(len(prototypes), class_radius, np.float32)


@dataclass(frozen=True)
class ClassStd(Context):
    """(B, C, h, w) float32: the standard deviation of every latent dimension over the class."""

    @property
    def least(self) -> int:
        return 2

    def of(self, latents: np.ndarray, prototypes: np.ndarray) -> np.ndarray:
        std = latents.astype(np.float64).std(axis=0).astype(np.float32)
        return np.broadcast_to(std, (len(prototypes), *std.shape)).copy()


def around(latents: np.ndarray, prototype: np.ndarray, count: int) -> np.ndarray:
    """The `count` latents (N, C, h, w) nearest the prototype (C, h, w), nearest first, float32, NaN where N is less."""
    x = latents.reshape(len(latents), -1).astype(np.float32)
    distance = np.square(x - prototype.reshape(1, -1)).sum(axis=1, dtype=np.float64)
    nearest = np.argsort(distance, kind="stable")[:count]
    out = np.full((count, *latents.shape[1:]), np.nan, np.float32)
    out[: len(nearest)] = latents[nearest]
    return out


def radius(latents: np.ndarray) -> float:
    """Median distance of the latents (N, C, h, w) of a class to their mean, in their own space; 0 for a single one."""
    x = latents.reshape(len(latents), -1).astype(np.float32)
    x -= x.mean(axis=0, dtype=np.float64).astype(np.float32)
    return float(np.median(np.sqrt(np.square(x).sum(axis=1, dtype=np.float64))))
