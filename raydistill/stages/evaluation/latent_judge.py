"""judge: a classifier of latents, trained on those of a set or on all real ones, in the place of one of images.

Of the real latents of each class every tenth is held out, to say how good a judge is: of fewer than ten the last one,
unless it is the only one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import safetensors.torch
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from raydistill.config import SampleConfig
from raydistill.declared import Keys
from raydistill.errors import StageFailed
from raydistill.models.device import inexact, placement
from raydistill.models.latent_classifier import LatentClassifierSpec, LatentNet
from raydistill.seeding import generator
from raydistill.stages.runner import Stage
from raydistill.stages.syntheses.distilled_set import DistilledSet
from raydistill.stages.work import StageWork
from raydistill.store import schemas
from raydistill.store.artifact import Record
from raydistill.store.rundir import RunDir
from raydistill.store.sealed import Sealed

KEY = "judge"
HELD_OUT = 10  # one of so many real latents
MOST = 100_000  # real latents in memory, equally many of each class
BATCH, RATE, DECAY, BLUR = 64, 2e-3, 0.01, 0.2  # BLUR: noise on what is trained on, in deviations of its channel
LEAST = 300  # steps, however small the set


@dataclass(frozen=True)
class JudgeWork(StageWork):
    """`distilled` None: trained on the real latents that are not held out, `epochs` times; otherwise as many steps as
    an epoch of the set has, at least LEAST."""

    name, folder = "judge", "classifiers"

    distilled: DistilledSet | None
    real: Sealed  # group's
    class_ids: tuple[str, ...]
    shape: tuple[int, ...]
    width: int
    epochs: int
    seed: int
    pool: Annotated[SampleConfig, Keys("threads", "dtype")]

    def load(self, item: str) -> str:
        return item

    def open(self) -> Callable[[str], Record]:
        at = placement(self.pool)

        def finish(key: str) -> Record:
            seen, held_out = self.real_latents()
            z, y, w = seen if self.distilled is None else set_latents(self.distilled)
            net = self.trained(z, y, w, at.device)
            right = sum(
                int((net(x.to(at.device)).argmax(1).cpu() == labels).sum())
                for x, labels in zip(*(t.split(500) for t in held_out[:2]), strict=True)
            )
            weights = {name: value.cpu().contiguous() for name, value in net.state_dict().items()}
            meta = {
                "right": right,
                "tested": len(held_out[1]),
                "largest": max(held_out[1].bincount().tolist(), default=0),
            } | inexact(at.kind)
            body = safetensors.torch.save(weights)
            return self.artifact.commit(key, body, rows=1, device=at.kind, ext="safetensors", meta=meta)

        return finish

    def real_latents(self) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]:
        """Latents (N, C, h, w), labels (N,) and weights (N,), all 1: of those to train on, and of those held out."""
        each = max(2, MOST // len(self.class_ids))
        parts: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
        labels: tuple[list[int], list[int]] = ([], [])
        for index, table in self.real.classes(["latent"]):
            z = schemas.tensor_numpy(table["latent"])[:each]
            out = np.arange(len(z)) % HELD_OUT == min(HELD_OUT, len(z)) - 1
            out &= len(z) > 1
            for side, rows in enumerate((~out, out)):
                parts[side].append(z[rows])
                labels[side].extend([index] * int(rows.sum()))
        first, second = (_tensors(np.concatenate(p), np.array(y)) for p, y in zip(parts, labels, strict=True))
        return first, second

    def trained(self, z: Tensor, y: Tensor, w: Tensor, device: torch.device) -> LatentNet:
        """By AdamW in float32, the rate falling to 0 along a cosine. Raises StageFailed if the loss is not finite."""
        draw = generator("judge", self.seed)
        torch.manual_seed(int(draw.integers(2**62)))
        net = LatentNet(len(self.class_ids), self.shape, self.width)
        net.mean.copy_(z.mean((0, 2, 3)).view(-1, 1, 1))
        net.std.copy_(z.std((0, 2, 3)).clamp(min=1e-6).view(-1, 1, 1))
        net = net.to(device)
        opt = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=DECAY)
        steps = max(LEAST, (self.epochs if self.distilled is None else 1) * math.ceil(len(z) / BATCH))
        noise = torch.Generator().manual_seed(int(draw.integers(2**62)))
        value = torch.zeros(())
        for step in range(steps):
            for group in opt.param_groups:
                group["lr"] = RATE * (1 + math.cos(math.pi * step / steps)) / 2
            rows = torch.from_numpy(draw.integers(len(z), size=min(BATCH, 4 * len(z))))
            x = z[rows].to(device)
            x = x + BLUR * net.std * torch.randn(x.shape, generator=noise).to(device)
            value = (cross_entropy(net(x), y[rows].to(device), reduction="none") * w[rows].to(device)).mean()
            opt.zero_grad(set_to_none=True)
            value.backward()
            opt.step()
        if not torch.isfinite(value):
            raise StageFailed(f"{self.name}: the loss of a classifier of latents is not finite")
        return net.eval().requires_grad_(False)


def stage(
    run: RunDir,
    distilled: DistilledSet | None,
    real: Sealed,
    class_ids: Sequence[str],
    shape: Sequence[int],
    width: int,
    epochs: int,
    seed: int,
    pool: SampleConfig,
) -> Stage:
    work = JudgeWork(distilled, real, tuple(class_ids), tuple(shape), width, epochs, seed, pool).within(run)
    return Stage("judge", "classifiers", work.artifact, [KEY], lambda key: key, work, 1, "actors", pool)


def spec(work: JudgeWork, sealed: Sealed, role: str) -> LatentClassifierSpec:
    """A finished one, as guidance is given it."""
    return LatentClassifierSpec(sealed, work.class_ids, work.shape, work.width, role)


def accuracy(sealed: Sealed, classes: int) -> tuple[float, int, float]:
    """The share of the latents that were held out that it is right on, how many these are, and the share of the largest
    class among them, which needs no learning; of commits that do not know it that of equal classes."""
    meta = sealed.record(KEY).meta
    tested = meta["tested"]
    return (
        meta["right"] / max(1, tested),
        tested,
        meta["largest"] / max(1, tested) if "largest" in meta else 1 / classes,
    )


def set_latents(distilled: DistilledSet) -> tuple[Tensor, Tensor, Tensor]:
    """Latents (N, C, h, w), labels (N,) and weights (N,) of mean 1 of a set."""
    table = distilled.read(["class_index", "weight", "latent"])
    z, y, w = _tensors(schemas.tensor_numpy(table["latent"]), table["class_index"].to_numpy())
    w = torch.from_numpy(table["weight"].to_numpy().astype(np.float32))
    return z, y, w / w.mean()


def _tensors(z: np.ndarray, y: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
    return torch.from_numpy(z.astype(np.float32)), torch.from_numpy(y.astype(np.int64)), torch.ones(len(z))
