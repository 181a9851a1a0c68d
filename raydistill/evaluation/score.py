"""What a training is worth: accuracies on real images, over the training and class by class."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raydistill.evaluation.colour import normalise
from raydistill.evaluation.images import ImageSet

CONFUSION_CLASSES = 100  # a confusion matrix of more classes is neither kept nor read
TOP5_CLASSES = 10  # top-5 means something above this many
TEST_BATCH = 250
PLAIN: AbstractContextManager[Any] = nullcontext()  # arithmetic in the network's own precision


def packed(right: np.ndarray) -> str:
    """(n,) bool in base64, a bit an image."""
    return base64.b64encode(np.packbits(right).tobytes()).decode()


def unpacked(text: str, tested: Sequence[int]) -> tuple[np.ndarray, ...]:
    """The opposite of `packed`, cut into classes of so many images each."""
    bits = np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8), count=sum(tested))
    return tuple(np.split(bits.astype(bool), np.cumsum(tested)[:-1]))


@dataclass(frozen=True)
class Score:
    """Accuracies as fractions. `curve` and `loss` hold (visits, top-1) and (visits, mean loss since the test before).

    `per_class` (classes,) and `confusion` (rows = truth, columns = answer, counts; None for more than 100 classes)
    belong to the last test. The top-5 values are None for up to ten classes; `top5_best` is the largest of all tests.
    `tested` (classes,) counts the test images, `right` says in base64, a bit an image, which of them the last test had
    right: class by class, each class in the order of the listing. `truth_mean` and `truth_spread` (images,) are of the
    set that was trained on, in its order: what its first epochs gave to the true class (cartography.py), of small sets.
    All four are None in what older versions committed.
    """

    best: float
    last: float
    curve: list[tuple[int, float]]
    per_class: list[float]
    loss: list[tuple[int, float]]
    confusion: list[list[int]] | None
    top5_best: float | None
    top5_last: float | None
    tested: list[int] | None = None
    right: str | None = None
    truth_mean: list[float] | None = None
    truth_spread: list[float] | None = None

    @property
    def balanced(self) -> float:
        """Mean over the classes that were tested of the share that is right, at the last test."""
        shares = [a for a, n in zip(self.per_class, self.tested or [1] * len(self.per_class), strict=True) if n]
        return sum(shares) / len(shares)

    def answers(self) -> tuple[np.ndarray, ...] | None:
        """Of each class (n,) bool: which of its test images are right. None where nobody kept them."""
        if self.tested is None or self.right is None:
            return None
        return unpacked(self.right, self.tested)

    def tree(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, tree: dict[str, Any]) -> Score:
        """The opposite of `tree`, after JSON."""
        curve, loss = ([(int(v), float(a)) for v, a in tree[key]] for key in ("curve", "loss"))
        later = ("tested", "right", "truth_mean", "truth_spread")
        known = {k: tree[k] for k in cls.__dataclass_fields__ if k in tree or k not in later}
        return cls(**{**known, "curve": curve, "loss": loss})


@dataclass(frozen=True)
class Answers:
    """Answers to all test images: `confusion` (classes, classes) int64, rows = truth; right among the first five.

    `right` (n,) bool: which images are, class by class, each class in the order in which it was tested.
    """

    confusion: Tensor
    top5: int
    right: Tensor

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
def examine(
    net: nn.Module,
    images: ImageSet,
    classes: int,
    arithmetic: AbstractContextManager[Any] = PLAIN,
    statistics: str = "imagenet",
) -> Answers:
    """Puts every test image, normalised by `statistics`, to the network in evaluation mode, in `arithmetic`.

    Leaves it in training mode.
    """
    net.eval()
    confusion = torch.zeros(classes * classes, dtype=torch.int64, device=images.labels.device)
    top5 = torch.zeros((), dtype=torch.int64, device=images.labels.device)
    right = []
    for start in range(0, len(images.labels), TEST_BATCH):
        y = images.labels[start : start + TEST_BATCH]
        with arithmetic:
            logits = net(normalise(images.shown(slice(start, start + TEST_BATCH)), statistics))
        answer = logits.argmax(1)
        right.append(answer == y)
        confusion += torch.bincount(y * classes + answer, minlength=classes * classes)
        if classes > TOP5_CLASSES:
            top5 += (logits.topk(5).indices == y[:, None]).sum()
    net.train()
    by_class = torch.cat(right)[images.labels.argsort(stable=True)]
    return Answers(confusion.view(classes, classes).cpu(), int(top5), by_class.cpu())
