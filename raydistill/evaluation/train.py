"""One training of one student: a fixed number of image visits, tested at even distances; best and last are reported."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raydistill import registry
from raydistill.config import ProtocolConfig
from raydistill.errors import StageFailed
from raydistill.evaluation.augment import crop_and_flip, cutmix, normalise
from raydistill.seeding import generator


@dataclass(frozen=True)
class ImageSet:
    """pixels (N, 3, S, S) uint8; labels (N,) int64; weights (N,) float32 (1 where a method gives none)."""

    pixels: Tensor
    labels: Tensor
    weights: Tensor


@dataclass(frozen=True)
class Score:
    """Top-1 accuracies as fractions; `curve` holds (visits, accuracy); `per_class` belongs to the last test."""

    best: float
    last: float
    curve: list[tuple[int, float]]
    per_class: list[float]

    def tree(self) -> dict[str, Any]:
        return asdict(self)


def train_student(
    student: str,
    width: int,
    train: ImageSet,
    test: ImageSet,
    classes: int,
    protocol: ProtocolConfig,
    seed: int,
    device: torch.device,
) -> Score:
    """SGD, momentum; learning rate x 0.2 at 2/3 and 5/6 of the budget; loss weighted per sample; CutMix mixes weights.

    Deterministic in its arguments for one thread count and kind of device. Raises StageFailed on a non-finite loss.
    """
    torch.manual_seed(int(generator("student.init", seed).integers(2**62)))
    net = registry.get("student", student)(classes, protocol.image_size, width).to(device)
    optimiser = torch.optim.SGD(net.parameters(), protocol.lr, protocol.momentum, weight_decay=protocol.weight_decay)
    steps = max(1, protocol.visits // protocol.batch)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimiser, [steps * 2 // 3, steps * 5 // 6], gamma=0.2)
    train, test = _to(train, device), _to(test, device)
    tests = {round(steps * (i + 1) / protocol.evaluations) for i in range(protocol.evaluations)}
    curve: list[tuple[int, float]] = []
    hits = torch.zeros(classes)
    for step, rows in enumerate(_batches(len(train.labels), protocol.batch, steps, seed), start=1):
        rng = generator("student.step", seed, step)
        index = torch.from_numpy(rows).to(device)
        x = crop_and_flip(normalise(train.pixels[index]), protocol, rng)
        y, w = train.labels[index], train.weights[index]
        if rng.random() < protocol.cutmix:
            x, partner, own = cutmix(x, rng)
        else:
            partner, own = torch.arange(len(x), device=device), 1.0
        logits = net(x)
        each = own * F.cross_entropy(logits, y, reduction="none") + (1 - own) * F.cross_entropy(
            logits, y[partner], reduction="none"
        )
        loss = (each * (own * w + (1 - own) * w[partner])).mean()
        if not torch.isfinite(loss):
            raise StageFailed(
                f"evaluate: the loss of {student} (seed {seed}) is not finite at step {step}; lower protocol.lr"
            )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        scheduler.step()
        if step in tests:
            hits = accuracy_per_class(net, test, classes)
            share = torch.bincount(test.labels.cpu(), minlength=classes) / len(test.labels)
            curve.append((step * protocol.batch, float((hits * share).sum())))
    return Score(max(a for _, a in curve), curve[-1][1], curve, [round(float(h), 6) for h in hits])


def _batches(n: int, batch: int, steps: int, seed: int) -> Iterator[np.ndarray]:
    """Batches from an endless run of permutations, so that every image is seen equally often, give or take one."""
    queue = np.zeros(0, np.int64)
    epoch = 0
    for _ in range(steps):
        while len(queue) < batch:
            queue = np.concatenate([queue, generator("student.order", seed, epoch).permutation(n)])
            epoch += 1
        yield queue[:batch]
        queue = queue[batch:]


@torch.inference_mode()
def accuracy_per_class(net: nn.Module, test: ImageSet, classes: int) -> Tensor:
    """Share of each class's test images that are recognised, (classes,) float32."""
    net.eval()
    right = torch.cat(
        [
            net(normalise(test.pixels[i : i + 250])).argmax(1) == test.labels[i : i + 250]
            for i in range(0, len(test.labels), 250)
        ]
    ).cpu()
    net.train()
    labels = test.labels.cpu()
    count = torch.bincount(labels, minlength=classes)
    return torch.bincount(labels, weights=right.float(), minlength=classes) / count.clamp(min=1)


def _to(images: ImageSet, device: torch.device) -> ImageSet:
    return ImageSet(images.pixels.to(device), images.labels.to(device), images.weights.to(device))
