"""The optimisers of the protocols, and how their learning rates fall."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from raydistill.evaluation.recipe import Recipe

BETAS = (0.9, 0.999)


def optimiser(net: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """SGD with momentum or Adam that decay everything, or AdamW that decays weights alone (`decayed`)."""
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(net.parameters(), recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay)
    if recipe.optimiser == "adam":
        return torch.optim.Adam(net.parameters(), recipe.lr, BETAS, weight_decay=recipe.weight_decay)
    named = list(net.named_parameters())
    groups = [
        {"params": [p for name, p in named if decayed(name, p)]},
        {"params": [p for name, p in named if not decayed(name, p)], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, recipe.lr, BETAS, weight_decay=recipe.weight_decay)


def decayed(name: str, parameter: Tensor) -> bool:
    """Whether the scripts of RDED and SRe2L decay a parameter: of more than one dimension, and "weight" in its name.

    So no biases and scales of norms, and no positions, class tokens and tables of biases of transformers either.
    """
    return parameter.dim() > 1 and "weight" in name


def _multistep(epoch: int, epochs: int) -> float:
    """x 0.2 at two thirds and again at five sixths."""
    return 0.2 ** ((epoch >= max(1, 2 * epochs // 3)) + (epoch >= max(1, 5 * epochs // 6)))


def _half_cosine(epoch: int, epochs: int) -> float:
    """Half a cosine stretched to twice the training, so that it ends at one half."""
    return 0.5 * (1 + math.cos(math.pi * epoch / (2 * epochs)))


def _cosine(epoch: int, epochs: int) -> float:
    return 0.5 * (1 + math.cos(math.pi * epoch / epochs))


def _middle(epoch: int, epochs: int) -> float:
    """x 0.1 behind the middle: of 1,001 epochs the last 499."""
    return 0.1 if epoch > (epochs - 1) // 2 + 1 else 1.0


SCHEDULES: dict[str, Callable[[int, int], float]] = {
    "multistep": _multistep,
    "half_cosine": _half_cosine,
    "cosine": _cosine,
    "middle": _middle,
}


def set_rate(opt: torch.optim.Optimizer, recipe: Recipe, seen: int) -> None:
    """The learning rate after `seen` image visits. It changes from epoch to epoch of the distilled set.

    A training on another number of images (the full-data bound) falls at the same visits. The scripts whose rate falls
    behind the middle go on there with an optimiser that is new, without momentum.
    """
    epoch = min(seen * recipe.epochs // recipe.visits, recipe.epochs - 1)
    rate = recipe.lr * SCHEDULES[recipe.schedule](epoch, recipe.epochs)
    for group in opt.param_groups:
        if recipe.schedule == "middle" and rate != group["lr"]:
            opt.state.clear()
        group["lr"] = rate
