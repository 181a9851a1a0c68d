"""The training loop's state: one optimiser step at a time, an average of the weights, save and restore."""

from __future__ import annotations

import copy
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from raydistill.errors import RaydistillError, StageFailed
from raydistill.identity import file_digest
from raydistill.pretraining.group import ALONE, Group
from raydistill.pretraining.tasks import Task

CLIP, WARMUP, FLOOR = 1.0, 0.02, 0.05


class NonFiniteLoss(RaydistillError):
    """The loss of a step is NaN or infinite; the weights are still those before the step."""


class Ema:
    """Moving average of a network's parameters: w <- d w + (1 - d) p with d = min(decay, (1 + n) / (10 + n))."""

    def __init__(self, net: nn.Module, decay: float) -> None:
        self.net, self.decay, self.updates = copy.deepcopy(net).requires_grad_(False).eval(), decay, 0

    @torch.no_grad()
    def update(self, net: nn.Module) -> None:
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        for mine, other in zip(self.net.parameters(), net.parameters(), strict=True):
            mine.lerp_(other, 1 - decay)


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up over the first 2 % of the steps, then a cosine down to a twentieth of `peak`."""
    warm = max(1, round(WARMUP * steps))
    if step < warm:
        return peak * (step + 1) / warm
    done = (step - warm) / max(1, steps - warm)
    return peak * (FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * done)))


class Trainer:
    """Adam with gradient clipping, on the weights that want a gradient.

    `step` counts finished steps; `losses` and `seconds` are theirs, `validation` holds (step, loss) where asked.
    """

    def __init__(self, task: Task, steps: int, lr: float, ema: float, group: Group = ALONE) -> None:
        self.task, self.steps, self.lr, self.group = task, steps, lr, group
        self.trained = [p for p in task.net.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=lr, weight_decay=0.0)
        self.ema = Ema(task.net, ema)
        self.step, self.losses, self.seconds = 0, list[float](), 0.0
        self.validation = list[tuple[int, float]]()

    def advance(self) -> float:
        """One step; its loss, the mean over workers. Raises NonFiniteLoss, on all of them, with no weight changed."""
        start = time.monotonic()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, self.steps, self.lr)
        loss = self.task.loss(self.step, self.group)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        value = self.group.average(self.trained, loss)
        norm = nn.utils.clip_grad_norm_(self.trained, CLIP)
        if not (math.isfinite(value) and math.isfinite(float(norm))):
            raise NonFiniteLoss(f"loss {value}, gradient norm {float(norm)} at step {self.step + 1} of {self.steps}")
        self.optimizer.step()
        self.ema.update(self.task.net)
        self.step += 1
        self.losses.append(value)
        self.seconds += time.monotonic() - start
        return value

    def validated(self, loss: float) -> None:
        """Keeps the averaged weights' validation loss after this step. Raises NonFiniteLoss for one that is none."""
        if not math.isfinite(loss):
            raise NonFiniteLoss(f"validation loss {loss} after step {self.step} of {self.steps}")
        self.validation.append((self.step, loss))

    def recent_loss(self) -> float:
        """Mean loss of the last 50 steps."""
        recent = self.losses[-50:]
        return sum(recent) / max(1, len(recent))

    def save(self, path: str | Path) -> None:
        """Everything that the next step depends on, in one file."""
        state = {
            "net": self.task.net.state_dict(),
            "ema": self.ema.net.state_dict(),
            "updates": self.ema.updates,
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "losses": self.losses,
            "validation": self.validation,
            "facts": self.task.facts,
            "seconds": self.seconds,
        }
        torch.save(state, path)
        _digest_of(path).write_text(file_digest(path))

    def load(self, path: str | Path) -> None:
        """Continues from `save`, on whatever device the task is on. Raises StageFailed on a file that does not fit."""
        state = read_state(path)
        try:
            self.task.net.load_state_dict(state["net"])
            self.ema.net.load_state_dict(state["ema"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.ema.updates, self.step, self.seconds = state["updates"], state["step"], state["seconds"]
            self.losses, self.validation = list(state["losses"]), list(state["validation"])
        except (KeyError, RuntimeError, ValueError) as e:
            reason = f"is of another training ({type(e).__name__})"
            raise StageFailed(f"pretrain: checkpoint {path} {reason}") from None


def _digest_of(path: str | Path) -> Path:
    return Path(f"{path}.sha256")


def read_state(path: str | Path) -> dict[str, Any]:
    """The content of a checkpoint file: tensors and plain values only, nothing that could run. Raises StageFailed."""
    try:
        if _digest_of(path).exists() and _digest_of(path).read_text() != file_digest(path):  # torch checks no tensor
            raise StageFailed(f"pretrain: checkpoint {path} is not what was saved")
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except StageFailed:
        raise
    except Exception as e:  # torch raises many kinds on truncated files
        raise StageFailed(f"pretrain: checkpoint {path} cannot be read ({type(e).__name__})") from None
    return state
