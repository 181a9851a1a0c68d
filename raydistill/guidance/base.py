"""What every guidance is: where it acts, what it adds, what it wants to see, and which numbers are its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from raydistill.config import GuidanceConfig, Section, Space
from raydistill.diffusion.loop import Batch
from raydistill.diffusion.schedule import Placed, Window
from raydistill.diffusion.start import NOISE, Start
from raydistill.guidance.context import Context
from raydistill.guidance.networks import Networks


class Guidance(ABC):
    """Subclass, set the class variables, write `delta`, register. Stateless: what differs by slot comes in the batch.

    Networks, loaded once a worker, are handed to it before its first step and are `self.bound` from then on.

    `settings` is the guidance's section of the configuration, None for one that declares none. `numbers` is the section
    `guidance`, which guidance of diffusion shares; a guidance of flows has a window of its own.
    """

    version: ClassVar[int] = 1  # raise it when what `delta` returns changes: old images are then made anew
    spaces: ClassVar[tuple[Space, ...]] = ("mean", "epsilon")  # in which `delta` can be given
    section: ClassVar[tuple[str, type[Section]] | None] = None  # its key in the configuration, and what it holds

    space: str
    window: Window
    bound: Networks

    def __init__(self, numbers: GuidanceConfig, space: Space, settings: Any = None) -> None:
        self.space, self.scale, self.settings = space, numbers.scale, settings
        self.window = Window(numbers.start, numbers.stop)

    @classmethod
    def make(cls, numbers: GuidanceConfig, space: Space, settings: Any = None) -> Guidance:
        """The guidance that the configuration asks for; one entry may stand for several variants."""
        if settings is None and cls.section is not None:
            settings = cls.section[1]()
        return cls(numbers, space, settings)

    @classmethod
    def settled(cls, settings: Any, space: Space, steps: int | None, larger: int = 1) -> Any:
        """The settings with what they leave to the number of steps that run, None where the schedule decides on it, and
        to how often the side of what a curriculum's students see goes into that of an image."""
        return settings

    @classmethod
    def acts(cls, numbers: GuidanceConfig, settings: Any) -> bool:
        """Whether it does anything at all with these numbers."""
        return numbers.scale > 0

    @classmethod
    def context(cls, settings: Any) -> Mapping[str, Context]:
        """What it wants to see of the real latents of a slot's class: `batch.context[name]` then holds it, (B, ...)."""
        return {}

    @classmethod
    def networks(cls, settings: Any) -> Sequence[str]:
        """The classifiers that it asks, by their roles: `teacher` (knows the classes), `features`."""
        return ()

    @classmethod
    def decoder(cls, settings: Any) -> str | None:
        """The folder of what decodes for it in the place of the VAE, as its section's key `decoder` names it."""
        return None

    @classmethod
    def differentiates(cls, settings: Any) -> bool:
        """Whether it asks the generator for gradients, which then is `bound.denoiser`."""
        return False

    def calls_at(self, step: Placed) -> int:
        """How often it asks the generator itself at a step."""
        return 0

    def bind(self, networks: Networks) -> None:
        """Gives it the VAE and the classifiers that it named."""
        self.bound = networks

    @classmethod
    def start(cls, settings: Any) -> Start:
        """Where its trajectories begin."""
        return NOISE

    @classmethod
    def examples(cls, scale: float, start: float, stop: float) -> Iterator[tuple[GuidanceConfig, Any]]:
        """Settings of this strength and window that the contract tests try: one a variant, scale 0 the identity."""
        yield GuidanceConfig(scale=scale, start=start, stop=stop), cls.section[1]() if cls.section else None

    @abstractmethod
    def delta(self, pred: Any, batch: Batch) -> Tensor:
        """What is added in `space`, (B, C, h, w): to the posterior mean, the noise estimate, or a flow's velocity."""

    def measured(self, pred: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """delta, and numbers by name, (B,) each, that the trace keeps."""
        return self.delta(pred, batch), {}
