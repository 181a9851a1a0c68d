"""What a method is: how it fills the slots of a class, and how its images come about."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from raydistill import registry
from raydistill.clustering.hierarchy import leaves_needed
from raydistill.clustering.tree import Tree
from raydistill.config import Config, Form, GuidanceConfig, Section
from raydistill.diffusion.schedule import Window
from raydistill.errors import BadInput


@dataclass(frozen=True)
class ClassView:
    """What a method may look at to fill a class: usable image ids, sorted, and prototypes in the order of the slots.

    centroids (K, C, h, w) float32 in VAE-scaled space (or the latents of the medoids, if hierarchy.representative says
    so), sizes (K,), medoids (K,) image ids; K = 0 for a method that uses none, and at most ipc. latents (N, C, h, w)
    float16 in VAE-scaled space, in the order of image_ids; empty for a method that does not ask for them. features
    (N, D) float32 if selection.space asks for them. tree is the whole one if the clustering makes one.
    """

    class_id: str
    image_ids: Sequence[str]
    centroids: np.ndarray
    sizes: np.ndarray
    medoids: Sequence[str]
    latents: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 0, 0), np.float16))
    features: np.ndarray | None = None
    tree: Tree | None = None

    @property
    def points(self) -> np.ndarray:
        """The images as vectors of the space that selection.space names: features (N, D), or latents (N, C h w)."""
        if self.features is not None:
            return self.features
        return self.latents.reshape(len(self.latents), math.prod(self.latents.shape[1:]))


@dataclass(frozen=True)
class Slot:
    """One image to be: real (`image_id`) or generated. `prototype` (C, h, w) or None, `prototype_id` -1 for none."""

    prototype_id: int = -1
    prototype: np.ndarray | None = None
    image_id: str = ""
    weight: float = 1.0


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
    form: ClassVar[Form | None] = None
    steps: ClassVar[int] = 50
    options: tuple[object, ...] = ()  # what `of` took from the configuration; part of the plan's fingerprint

    @classmethod
    def of(cls, config: Config) -> Method:
        """The method as the configuration wants it. Only what `slots` depends on, beyond its arguments, is taken."""
        return cls()

    @abstractmethod
    def slots(self, view: ClassView, ipc: int, seed: int) -> list[Slot]:
        """Exactly `ipc` slots, a pure function of its arguments."""


def resolve(config: Config) -> tuple[Config, Method]:
    """Fills what the configuration leaves to the method, and refuses what contradicts it. Raises BadInput."""
    method: Method = registry.get("method", config.method).of(config)
    if method.uses_prototypes:
        config = _resolve_prototypes(config, method)
    if not method.generates:
        return config, method
    name = config.sampler.name or method.sampler
    spaces = registry.get("sampler", name).spaces
    steps = config.sampler.steps or method.steps
    form = None
    if method.guidance is not None:
        form = config.guidance.form or method.form
        takes = forms(method.guidance)
        if form not in takes:
            raise BadInput(
                f"guidance.form={form} does not go with guidance {method.guidance} of method {config.method}, which "
                f"has {' or '.join(takes)}; leave it out"
            )
        if form not in spaces:
            raise BadInput(
                f"guidance.form={form} does not go with sampler.name={name}, which accepts "
                f"{' or '.join(spaces)}; choose another of the two"
            )
        if form != "velocity" and config.guidance.scale > 0:
            Window(config.guidance.start, config.guidance.stop).check(steps)
    return config.model_copy(
        update={
            "sampler": config.sampler.model_copy(update={"name": name, "steps": steps}),
            "guidance": config.guidance.model_copy(update={"form": form}),
        }
    ), method


def _resolve_prototypes(config: Config, method: Method) -> Config:
    algorithm = config.cluster.algorithm or method.clustering
    h = config.hierarchy
    wanted = leaves_needed(h.selection, config.ipc, h.factor)
    if registry.get("clustering", algorithm).makes == "tree" and wanted > config.cluster.leaves:
        why = f"ipc={config.ipc}" + (f" and hierarchy.factor={h.factor}" if h.selection == "levels" else "")
        raise BadInput(f"cluster.leaves={config.cluster.leaves} is too few for {why}; make it at least {wanted}")
    return config.model_copy(update={"cluster": config.cluster.model_copy(update={"algorithm": algorithm})})


def forms(guidance: str) -> tuple[str, ...]:
    """The spaces that a guidance can be in."""
    return getattr(registry.get("guidance", guidance), "forms", ("mean", "epsilon"))


def guided(config: Config, method: Method) -> bool:
    """Whether guidance does anything: a scale above 0, unless the guidance has numbers of its own to tell by."""
    if method.guidance is None:
        return False
    acts = getattr(registry.get("guidance", method.guidance), "acts", None)
    return acts(guidance_section(config, method)) if acts else config.guidance.scale > 0


def make_guidance(name: str, numbers: GuidanceConfig, own: Section | None) -> Any:
    """The guidance object, by the resolved configuration."""
    return registry.get("guidance", name)(numbers, numbers.form, *([] if own is None else [own]))


def sampler_section(config: Config) -> Section | None:
    """The configuration section that the sampler declares as its own, if any."""
    name = getattr(registry.get("sampler", config.sampler.name or ""), "section", None)
    return getattr(config, name) if name else None


def guidance_numbers(config: Config) -> dict[str, Any]:
    """The part of section `guidance` that is read. Guidance of flows reads none of it but the form."""
    read = config.guidance.model_dump()
    return {"form": read["form"]} if read["form"] == "velocity" else read


def guidance_section(config: Config, method: Method) -> Section | None:
    """The configuration section that the method's guidance declares as its own, if any."""
    if method.guidance is None:
        return None
    name = getattr(registry.get("guidance", method.guidance), "section", None)
    return getattr(config, name) if name else None


def neighbours_wanted(config: Config, method: Method) -> tuple[int, int]:
    """Real latents around each prototype: how many the guidance needs, and how many it looks at; 0 for most."""
    if method.guidance is None or not guided(config, method):
        return 0, 0
    wanted = getattr(registry.get("guidance", method.guidance), "neighbours", None)
    return wanted(guidance_section(config, method)) if wanted else (0, 0)


def spread_wanted(config: Config, method: Method) -> bool:
    """Whether the guidance measures by the spread of the real latents of a class."""
    if method.guidance is None or not guided(config, method):
        return False
    asks = getattr(registry.get("guidance", method.guidance), "spread", None)
    return False if asks is None else asks(guidance_section(config, method))


def pick_real(view: ClassView, ipc: int, method: str) -> None:
    """Raises BadInput if a class has fewer usable images than slots."""
    if ipc > len(view.image_ids):
        raise BadInput(
            f"ipc={ipc} is more than the {len(view.image_ids)} usable images of class {view.class_id!r}, and "
            f"method {method} picks real ones; lower ipc or use a method that generates"
        )
