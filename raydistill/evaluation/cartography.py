"""Dataset cartography (Swayamdipta et al. 2020): what a training has been sure of, image by image of its own set.

At the end of each of the first EPOCHS epochs the probability that the student gives to the true class of each image
that it is trained on, as it is stored: its mean over the epochs, and its spread.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raydistill.evaluation.colour import normalise
from raydistill.evaluation.images import ImageSet
from raydistill.evaluation.recipe import Recipe

MOST = 10_000  # images of a set; larger ones are not mapped
BATCH, EPOCHS = 250, 50
HARD, INFORMATIVE = 0.3, 0.2  # mean below which an image is hard, spread from which it is informative


@dataclass
class Certainty:
    """Sums over `epochs` epochs of the probability of the true class (n,) and of its square, float64 on the CPU."""

    epochs: int
    total: Tensor
    squares: Tensor

    @classmethod
    def of(cls, images: int) -> Certainty:
        return cls(0, torch.zeros(images, dtype=torch.float64), torch.zeros(images, dtype=torch.float64))

    def add(self, probability: Tensor) -> None:
        p = probability.double().cpu()
        self.epochs, self.total, self.squares = self.epochs + 1, self.total + p, self.squares + p.square()

    def mean_and_spread(self) -> tuple[list[float], list[float]]:
        """Of each image, to four digits; the spread is the standard deviation over the epochs."""
        mean = self.total / self.epochs
        spread = (self.squares / self.epochs - mean.square()).clamp(min=0).sqrt()
        first, second = ([round(float(v), 4) for v in values] for values in (mean, spread))
        return first, second


def ends_of_epochs(images: int, recipe: Recipe) -> set[int]:
    """The steps after which a set is mapped: those that end its first EPOCHS epochs. None of a set of more than MOST
    images, or of fewer epochs, which are those of real images."""
    steps = -(-images // recipe.batch)
    return (
        set(range(steps, EPOCHS * steps + 1, steps)) if images <= MOST and recipe.visits >= EPOCHS * images else set()
    )


@torch.inference_mode()
def of_set(
    net: nn.Module, images: ImageSet, arithmetic: AbstractContextManager[Any], statistics: str = "imagenet"
) -> Tensor:
    """(n,): what the network, in evaluation mode, gives to the label of each image, normalised by `statistics`.

    It is left in training mode.
    """
    net.eval()
    parts = []
    for start in range(0, len(images.labels), BATCH):
        y = images.labels[start : start + BATCH]
        with arithmetic:
            logits = net(normalise(images.shown(slice(start, start + BATCH)), statistics))
        parts.append(logits.float().softmax(1).gather(1, y[:, None]).squeeze(1))
    net.train()
    return torch.cat(parts)


def shares(mean: np.ndarray, spread: np.ndarray) -> dict[str, float]:
    """Which share of the images (n,) is hard: never learned; informative: learned now and then; easy: all others."""
    informative = spread >= INFORMATIVE
    hard = (mean < HARD) & ~informative
    kinds = {"hard": hard, "informative": informative, "easy": ~hard & ~informative}
    return {name: float(which.mean()) for name, which in kinds.items()}
