"""What a method is: how it fills the slots of a class, and how its images come about."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np

from raydistill.clustering.tree import Tree
from raydistill.config import Config, Space
from raydistill.diffusion.start import NOISE, Start
from raydistill.errors import BadInput
from raydistill.seeding import NoiseKey


@dataclass(frozen=True)
class ClassView:
    """What a method may look at to fill a class: usable image ids, sorted, and prototypes in the order of the slots.

    centroids (K, C, h, w) float32 in VAE-scaled space (or the latents of the medoids, if hierarchy.representative says
    so), sizes (K,), medoids (K,) image ids; K = 0 for a method that uses none, and at most ipc. latents (N, C, h, w)
    float16 in VAE-scaled space, in the order of image_ids; empty for a method that does not ask for them. features
    (N, D) float32 if selection.space asks for them. tree is the whole one if the clustering makes one. increment
    counts the times that the class was filled before.
    """

    class_id: str
    image_ids: Sequence[str]
    centroids: np.ndarray
    sizes: np.ndarray
    medoids: Sequence[str]
    latents: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 0, 0), np.float16))
    features: np.ndarray | None = None
    tree: Tree | None = None
    increment: int = 0

    @property
    def points(self) -> np.ndarray:
        """The images as vectors of the space that selection.space names: features (N, D), or latents (N, C h w)."""
        if self.features is not None:
            return self.features
        return self.latents.reshape(len(self.latents), math.prod(self.latents.shape[1:]))

    def keys(self, ipc: int, seed: int) -> list[NoiseKey]:
        """Of which the noise of its slots will be drawn: here and nowhere else they are made."""
        return [NoiseKey(seed, self.class_id, j, self.increment) for j in range(ipc)]


@dataclass(frozen=True)
class Slot:
    """One image to be: real (`image_id`) or generated. `prototype` (C, h, w) or None, `prototype_id` -1 for none."""

    prototype_id: int = -1
    prototype: np.ndarray | None = None
    image_id: str = ""
    weight: float = 1.0


@dataclass(frozen=True)
class Curriculum:
    """How a set grows out of increments of `increment` images a class: the first by method `seed`, the others by method
    `base`, led by what was trained on those before them, the best of `candidates` a slot.

    What is chosen enters the memory of its class at the end of a round of `round` slots; with `remember_all` the memory
    begins with all earlier increments. `student` is what is trained, with seed `training_seed`; the reference is a
    student too, trained on all real images for `reference_epochs`, or teacher.path's network. `omega` weighs its loss
    where candidates are chosen.
    """

    increment: int
    seed: str
    base: str
    candidates: int
    round: int
    remember_all: bool
    omega: float
    reference: Literal["trained", "teacher"]
    reference_epochs: int
    student: str
    training_seed: int


class Method(ABC):
    """Subclass, set the class variables, register. Everything else of the pipeline is shared by all methods."""

    summary: ClassVar[str]
    uses_prototypes: ClassVar[bool] = False
    clustering: ClassVar[str] = "kmeans"
    uses_latents: ClassVar[bool] = False
    uses_points: ClassVar[bool] = False
    generates: ClassVar[bool] = True
    sampler: ClassVar[str] = "ddpm"
    guidance: ClassVar[str | None] = None
    form: ClassVar[Space | None] = None
    steps: ClassVar[int] = 50
    weights: ClassVar[str | None] = None  # as weights.mode has it; None = those of its slots
    start: ClassVar[Start] = NOISE
    terms: ClassVar[tuple[str, ...]] = ()  # guidances beside `guidance`, each in a window of its own
    curriculum: Curriculum | None = None  # what it fills are increments of a set, and this is how it grows
    options: tuple[object, ...] = ()  # what `of` took from the configuration; part of the plan's fingerprint

    @classmethod
    def of(cls, config: Config) -> Method:
        """The method as the configuration wants it. Only what `slots` depends on, beyond its arguments, is taken."""
        return cls()

    @abstractmethod
    def slots(self, view: ClassView, ipc: int, seed: int) -> list[Slot]:
        """Exactly `ipc` slots, a pure function of its arguments."""


def in_turn(view: ClassView, ipc: int) -> list[Slot]:
    """Slot j takes prototype j; with fewer distinct latents than slots the prototypes are used in turn."""
    return [Slot(j % len(view.sizes), view.centroids[j % len(view.sizes)]) for j in range(ipc)]


def pick_real(view: ClassView, ipc: int, method: str) -> None:
    """Raises BadInput if a class has fewer usable images than slots."""
    if ipc > len(view.image_ids):
        raise BadInput(
            f"ipc={ipc} is more than the {len(view.image_ids)} usable images of class {view.class_id!r}, and "
            f"method {method} picks real ones; lower ipc or use a method that generates"
        )
