"""What a student is told an image is: a distribution over the classes, (n, classes) float32, hard or soft."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from raydistill.evaluation.colour import unit_range
from raydistill.models.classifier import Classifier

AT_ONCE = {"cpu": 32}  # images a teacher is shown at once: more leave the cache of a core and are slower there
AT_ONCE_ELSEWHERE = 256


class Targets(Protocol):
    """`of_mixed`: asked for the batch after CutMix; otherwise before it, and CutMix mixes the answers."""

    of_mixed: bool

    def __call__(self, x: Tensor, epoch: int, rows: np.ndarray) -> Tensor:
        """x (n, 3, S, S) float32 normalised, as seen in `epoch`; rows (n,) of the set."""
        ...


class Hard:
    """The label, with certainty."""

    of_mixed = False

    def __init__(self, labels: Tensor, classes: int) -> None:
        self.labels, self.classes = labels, classes

    def __call__(self, x: Tensor, epoch: int, rows: np.ndarray) -> Tensor:
        labels = self.labels[torch.from_numpy(rows).to(self.labels.device)]
        return F.one_hot(labels, self.classes).float()  # of a batch: of a million images it would be gigabytes


class Live:
    """A teacher asked for every batch. `columns` (classes,): the teacher's column of each class of the set.

    A batch is shown to it in parts, so that memory does not grow with the batch: the full data have large ones.
    The distribution is over the set's classes alone. `statistics` are those that the batch was normalised by.
    """

    def __init__(
        self,
        teacher: Classifier,
        columns: np.ndarray,
        temperature: float,
        of_mixed: bool,
        statistics: str = "imagenet",
    ) -> None:
        self.teacher, self.temperature, self.of_mixed, self.statistics = teacher, temperature, of_mixed, statistics
        self.columns = torch.from_numpy(columns)

    def __call__(self, x: Tensor, epoch: int, rows: np.ndarray) -> Tensor:
        parts = unit_range(x, self.statistics).split(AT_ONCE.get(x.device.type, AT_ONCE_ELSEWHERE))
        logits = torch.cat([self.teacher.logits(part) for part in parts])[:, self.columns.to(x.device)]
        return (logits / self.temperature).softmax(1)


def loss(logits: Tensor, target: Tensor, soft: bool, temperature: float) -> Tensor:
    """Of each image, (n,): cross-entropy with hard targets; with soft ones KL(target || softmax(logits / T)).

    As in the released scripts there is no factor T^2.
    """
    if not soft:
        return F.cross_entropy(logits, target, reduction="none")
    return F.kl_div(F.log_softmax(logits / temperature, 1), target, reduction="none").sum(1)
