"""The workers that train one network together: who computes which rows, and how gradients become one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Group:
    """Worker `rank` of `count`. More than one need torch.distributed's process group, which Ray Train starts."""

    rank: int = 0
    count: int = 1

    def share(self, size: int) -> slice:
        """This worker's rows of a batch whose size is a multiple of `count`."""
        each = size // self.count
        return slice(self.rank * each, (self.rank + 1) * each)

    def average(self, parameters: Sequence[nn.Parameter], loss: Tensor) -> float:
        """Puts the mean gradient of all workers into `parameters`, in place; the mean loss.

        One all-reduce over one vector, in the order of the parameters. Every element is summed in one place and handed
        to all, so that workers which began with the same weights keep the same bits, and a training that is taken up
        again repeats itself. DistributedDataParallel cuts its buckets by what it saw earlier and promises neither.
        """
        if self.count == 1:
            return float(loss.detach())
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = self.total(torch.cat([*(g.flatten() for g in grads), loss.detach().reshape(1).to(grads[0])]))
        flat /= self.count
        for p, mean in zip(parameters, flat[:-1].split([p.numel() for p in parameters]), strict=True):
            p.grad = mean.view_as(p)
        return float(flat[-1])

    def total(self, values: Tensor) -> Tensor:
        """The sum over workers, in place."""
        if self.count > 1:
            torch.distributed.all_reduce(values)
        return values

    def first_error(self, mine: str | None) -> str | None:
        """What went wrong with the first worker that something went wrong with: all give up together or none does."""
        if self.count == 1:
            return mine
        errors: list[str | None] = [None] * self.count
        torch.distributed.all_gather_object(errors, mine)
        return next(filter(None, errors), None)


ALONE = Group()
