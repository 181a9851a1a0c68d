"""One step of a student's training: down the gradient of the loss of a batch, which a CPU sums over parts of it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from raydistill import registry
from raydistill.evaluation.batch_statistics import batch_norms, spare_single_values
from raydistill.evaluation.parts import ALL, at_once
from raydistill.evaluation.recipe import Recipe
from raydistill.evaluation.targets import loss
from raydistill.models.device import mixed


@dataclass(frozen=True)
class Descent:
    """How `net` learns: `part` images at a time; `twice` sends each batch through it once more, to move statistics."""

    net: nn.Module
    opt: torch.optim.Optimizer
    recipe: Recipe
    arithmetic: AbstractContextManager[Any]
    part: int
    twice: bool

    @classmethod
    def of(
        cls,
        net: nn.Module,
        opt: torch.optim.Optimizer,
        recipe: Recipe,
        arithmetic: AbstractContextManager[Any],
        device: torch.device,
    ) -> Descent:
        """Of a network on `device` that sees images of the recipe's size; with statistics of batches by whole ones."""
        if spare_single_values(net):
            return cls(net, opt, recipe, arithmetic, ALL, recipe.bn_pass)
        return cls(net, opt, recipe, arithmetic, at_once(net, recipe.image_size, device, arithmetic), False)

    def step(self, x: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        """Of images x (b, 3, S, S), targets (b, classes) and weights (b,): the mean of w_i l_i before the step, ()."""
        self.opt.zero_grad(set_to_none=True)
        total = x.new_zeros(())
        for images, answers, weights in zip(*(t.split(self.part) for t in (x, target, weight)), strict=True):
            of_image = loss(self._logits(images).float(), answers, self.recipe.soft, self.recipe.temperature)
            value = (of_image * weights).mean() * (len(images) / len(x))
            value.backward()
            total += value.detach()
        self.opt.step()
        return total

    def _logits(self, x: Tensor) -> Tensor:
        """(b, classes)."""
        if self.twice:
            with torch.no_grad(), self.arithmetic:
                self.net(x)
        with self.arithmetic:
            logits: Tensor = self.net(x)
        return logits


@cache
def parted(student: str, width: int, classes: int, side: int, dtype: str, batch: int) -> bool:
    """Whether a CPU takes a batch of that size in parts: then other bits come out than of a whole one."""
    cpu = torch.device("cpu")
    with torch.random.fork_rng(devices=()):
        net = registry.get("student", student)(classes, side, width)
    return not batch_norms(net) and at_once(net, side, cpu, mixed(dtype, cpu)) < batch
