"""Several guidances as one: terms of one space, each within its own window."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from raydistill.diffusion import loop
from raydistill.diffusion.loop import Batch
from raydistill.diffusion.schedule import Placed, Windows
from raydistill.guidance.base import Guidance
from raydistill.guidance.learnability import norm
from raydistill.guidance.networks import Networks


class Combined:
    """What the terms add, added. Each sees the network's own prediction, not what the others make of it."""

    def __init__(self, terms: Mapping[str, Guidance]) -> None:
        """`terms` are by name. Raises ValueError if they act in different spaces."""
        self.terms = terms
        spaces = {term.space for term in terms.values()}
        if len(spaces) != 1:
            raise ValueError(f"terms of guidance act in one space, and {', '.join(terms)} in {sorted(spaces)}")
        self.space = spaces.pop()
        self.window = Windows(tuple(term.window for term in terms.values()))

    def bind(self, networks: Networks) -> None:
        for term in self.terms.values():
            term.bind(networks)

    def calls_at(self, step: Placed) -> int:
        return sum(term.calls_at(step) for term in self.terms.values())

    def delta(self, pred: Any, batch: Batch) -> Tensor:
        return self.measured(pred, batch)[0]

    def measured(self, pred: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum, and the numbers of every term that acts at this step; the push of each as `push NAME`, and of a flow
        that of all of them as `push`, which elsewhere the loop measures."""
        deltas: list[Tensor] = []
        seen: dict[str, Tensor] = {}
        for name, term in self.terms.items():
            if not term.window.active(pred.step):
                continue
            flows = self.space == "velocity"  # whose guidance tells its own push
            delta, numbers = term.measured(pred, batch) if flows else loop.measured(term, pred, batch)
            deltas.append(delta)
            seen |= {f"push {name}" if key == "push" else key: value for key, value in numbers.items()}
        total = torch.stack(deltas).sum(0)
        if self.space == "velocity":
            seen = {"push": norm(total) / norm(pred.v_hat).clamp(min=1e-12), **seen}
        return total, seen
