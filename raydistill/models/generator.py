"""What every generator is known by, whatever its network is told of a class: a label, or a text."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from raydistill.diffusion.flow import FlowStep
from raydistill.diffusion.flow import path as flow_path
from raydistill.diffusion.schedule import Step
from raydistill.diffusion.schedule import path as diffusion_path
from raydistill.diffusion.start import NOISE, Start
from raydistill.errors import BadInput
from raydistill.models.parametrisation import Parametrisation
from raydistill.models.vae import VaeSpec

DIGEST = re.compile("[0-9a-f]{64}")
CPU = torch.device("cpu")


def _some(class_ids: Sequence[str]) -> str:
    """The first and the last of many class ids."""
    shown = [repr(c) for c in class_ids]
    return ", ".join(shown if len(shown) <= 12 else [*shown[:6], "...", *shown[-2:]])


class Generator(ABC):
    """A generator directory, without its weights.

    `class_ids` are in the order of the network's labels, and `null_class` is the label of "no class". The network sees
    VAE-scaled latents times `latent_scale`. `vae` (a digest) and `vae_scaling_factor` are what is known of the VAE
    that it was trained with.
    """

    path: Path
    predicts: Parametrisation
    class_ids: list[str]
    null_class: int
    latent_shape: tuple[int, int, int]
    latent_scale: float = 1.0
    learned_variance: bool = False
    time_shift: float = 1.0
    steps_offset: int = 0
    last_alpha_bar: float = 1.0
    vae: Any = None
    vae_scaling_factor: float | None = None
    factor_stands_in: str = "vae_scaling_factor in its training.json"

    @property
    def alphas_bar(self) -> np.ndarray:
        """(T,) float64: what DDPM and DDIM go along. A flow is taken along DiT's linear betas."""
        return self.predicts.alphas_bar

    def steps(self, grid: str, count: int, start: Start = NOISE) -> tuple[Step, ...]:
        """The path of DDPM and DDIM from `start`. Raises BadInput for more steps than there are training times."""
        return diffusion_path(self.alphas_bar, grid, count, start, self.steps_offset, self.last_alpha_bar)

    def times(self, count: int, t0: float, grid: str) -> tuple[FlowStep, ...]:
        """The path of a flow sampler from t0: a flow's even one, or through a diffusion model's own times."""
        return flow_path(count, t0, self.predicts.own_times, self.time_shift, grid)

    def check_fits(self, latent_shape: tuple[int, int, int], class_ids: Sequence[str]) -> None:
        """Raises BadInput if the latents or a class are not what the generator was trained on."""
        if latent_shape != self.latent_shape:
            raise BadInput(
                f"the VAE gives latents of shape {latent_shape} but the generator takes {self.latent_shape} "
                f"({self.path}); change source.image_size, vae.path or generator.path"
            )
        known = set(self.class_ids)
        unknown = [c for c in class_ids if c not in known]
        if unknown:
            remedy = "leave it out with source.classes=[...] or give another generator.path"
            if "0" in known and "0" not in class_ids and all(c.isdecimal() for c in class_ids):
                remedy = "if they count from 1, give them its ids: docs/bring-your-own.md#labels-that-are-numbers"
            others = f", nor {'is' if len(unknown) == 2 else 'are'} {len(unknown) - 1} more" if unknown[1:] else ""
            raise BadInput(
                f"class {unknown[0]!r} is not one of the generator's {len(known)} classes{others}: it knows "
                f"{_some(self.class_ids)} ({self.path}), and the images are of {_some(class_ids)}; {remedy}"
            )

    def check_vae(self, vae: VaeSpec) -> None:
        """Raises BadInput if the generator is known to have learned the latents of another VAE."""
        if isinstance(self.vae, str) and DIGEST.fullmatch(self.vae):
            weights = vae.identity()["weights"]
            if weights != self.vae:
                raise BadInput(
                    f"generator.path: {self.path} was trained on latents of another VAE (digest {self.vae[:16]}) than "
                    f"vae.path {vae.path} ({weights[:16]}); give the VAE that it was trained with, or take `vae` out "
                    "of its training.json if the two are the same"
                )
        # An AutoencoderTiny gives latents that are scaled already, whatever factor the VAE that it imitates has.
        factor = self.vae_scaling_factor
        if factor is not None and vae.kind == "AutoencoderKL" and not math.isclose(vae.scaling_factor, factor):
            raise BadInput(
                f"generator.path: {self.path} was trained on latents scaled by {factor:g}, but the VAE {vae.path} "
                f"scales by {vae.scaling_factor:g}; give the VAE that it was trained with, or correct "
                + self.factor_stands_in
            )

    def check_objective(self, wanted: str | None) -> None:
        """Raises BadInput if `generator.objective` is given and is not what the checkpoint predicts."""
        if wanted is not None and wanted != self.predicts.predicts:
            raise BadInput(
                f"generator.objective={wanted} does not fit the checkpoint: {self.path} predicts "
                f"{self.predicts.predicts}; leave it out, or give another generator.path"
            )

    @abstractmethod
    def check_network(self) -> None:
        """Raises BadInput for weights that do not fit config.json. Imports diffusers, which takes seconds."""

    @abstractmethod
    def network(self, device: torch.device = CPU) -> Any:
        """The network in float32: net(x, timestep=, class_labels=).sample. Raises BadInput.

        It is still on the CPU; `device` is where work may be done once for all that it is asked.
        """

    @abstractmethod
    def identity(self) -> dict[str, Any]: ...
