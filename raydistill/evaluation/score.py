"""What a training is worth: accuracies on real images, over the training and class by class."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from raydistill.evaluation.colour import normalise
from raydistill.evaluation.images import ImageSet

CONFUSION_CLASSES = 100  # a confusion matrix of more classes is neither kept nor read
TOP5_CLASSES = 10  # top-5 means something above this many
TEST_BATCH = 250
PLAIN: AbstractContextManager[Any] = nullcontext()  # arithmetic in the network's own precision


@dataclass(frozen=True)
class Score:
    """Accuracies as fractions. `curve` and `loss` hold (visits, top-1) and (visits, mean loss since the test before).

    `per_class` (classes,) and `confusion` (rows = truth, columns = answer, counts; None for more than 100 classes)
    belong to the last test. The top-5 values are None for up to ten classes; `top5_best` is the largest of all tests.
    """

    best: float
    last: float
    curve: list[tuple[int, float]]
    per_class: list[float]
    loss: list[tuple[int, float]]
    confusion: list[list[int]] | None
    top5_best: float | None
    top5_last: float | None

    def tree(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, tree: dict[str, Any]) -> Score:
        """The opposite of `tree`, after JSON."""
        curve, loss = ([(int(v), float(a)) for v, a in tree[key]] for key in ("curve", "loss"))
        return cls(**{**{k: tree[k] for k in cls.__dataclass_fields__}, "curve": curve, "loss": loss})


@dataclass(frozen=True)
class Answers:
    """Answers to all test images: `confusion` (classes, classes) int64, rows = truth; right among the first five."""

    confusion: Tensor
    top5: int

    @property
    def images(self) -> int:
        return int(self.confusion.sum())

    @property
    def accuracy(self) -> float:
        return int(self.confusion.diagonal().sum()) / self.images

    @property
    def per_class(self) -> Tensor:
        """(classes,) float64; 0 for a class without images."""
        return self.confusion.diagonal() / self.confusion.sum(1).clamp(min=1).double()


@torch.inference_mode()
def examine(net: nn.Module, images: ImageSet, classes: int, arithmetic: AbstractContextManager[Any] = PLAIN) -> Answers:
    """Puts every test image to the network in evaluation mode, in `arithmetic`; leaves it in training mode."""
    net.eval()
    confusion = torch.zeros(classes * classes, dtype=torch.int64, device=images.labels.device)
    top5 = torch.zeros((), dtype=torch.int64, device=images.labels.device)
    for start in range(0, len(images.labels), TEST_BATCH):
        y = images.labels[start : start + TEST_BATCH]
        with arithmetic:
            logits = net(normalise(images.pixels[start : start + TEST_BATCH]))
        confusion += torch.bincount(y * classes + logits.argmax(1), minlength=classes * classes)
        if classes > TOP5_CLASSES:
            top5 += (logits.topk(5).indices == y[:, None]).sum()
    net.train()
    return Answers(confusion.view(classes, classes).cpu(), int(top5))
