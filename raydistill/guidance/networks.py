"""The networks that a guidance works with besides the generator: the VAE, and the classifiers that it names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from raydistill.diffusion.prediction import Prediction
from raydistill.diffusion.schedule import Step
from raydistill.models.classifier import Classifier, class_columns
from raydistill.models.latent_classifier import LatentClassifier
from raydistill.models.vae import Vae

ROLES = ("teacher", "features")  # sections of the configuration, whose `path` names a classifier


class Differentiable(Protocol):
    """A generator whose predictions are differentiable in x (B, C, h, w), for classes (B,); models/denoiser.py."""

    def with_grad(self, x_t: Tensor, step: Step, class_index: Tensor) -> Prediction: ...

    def velocity_with_grad(self, x: Tensor, t: float, class_index: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Networks:
    """Loaded, and in a guidance's terms: `class_ids` are the generator's, latents are those of generator space.

    `classifiers` are by the role under which the guidance named them; the VAE is always there, the generator if the
    guidance asks it for gradients.
    """

    latent_scale: float
    class_ids: Sequence[str]
    vae: Vae
    classifiers: Mapping[str, Classifier | LatentClassifier]
    denoiser: Differentiable | None = None

    def latents(self, x: Tensor) -> Tensor:
        """(B, C, h, w) in generator space -> in VAE-scaled space, as a classifier of latents sees them."""
        return x / self.latent_scale

    def decode(self, x: Tensor, checkpointed: bool = False) -> Tensor:
        """(B, C, h, w) in generator space -> pixels (B, 3, S, S), black 0 and white 1, differentiable in x."""
        return self.vae.decode_with_grad(x / self.latent_scale, checkpointed)

    def logits(self, role: str, pixels: Tensor, checkpointed: bool = False) -> Tensor:
        """(B, K) of pixels (B, 3, S, S) in [0, 1], or of latents for one that sees these, differentiable in them."""
        return self.classifiers[role].logits_with_grad(pixels, checkpointed)

    def features(self, role: str, pixels: Tensor, checkpointed: bool = False) -> Tensor:
        """(B, D) of pixels (B, 3, S, S) in [0, 1], differentiable in them."""
        classifier = self.classifiers[role]
        assert isinstance(classifier, Classifier)
        return classifier.features_with_grad(pixels, checkpointed)

    def columns(self, role: str, class_index: Tensor) -> Tensor:
        """The classifier's columns (B,) int64 of the generator's classes (B,), as a batch holds them.

        Raises BadInput for a class that the classifier does not know.
        """
        ids = [self.class_ids[i] for i in class_index.tolist()]
        return torch.from_numpy(class_columns(self.classifiers[role].spec, ids)).to(class_index.device)
