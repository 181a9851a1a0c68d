"""Stored soft labels: a teacher's logits of each (image, view) in eight bits, and the views that they belong to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from raydistill.errors import StageFailed
from raydistill.evaluation.geometry import Boxes, draw_boxes, draw_patches
from raydistill.evaluation.recipe import Recipe

LEVELS = 255


def view_boxes(rows: np.ndarray, view: int, recipe: Recipe) -> Boxes:
    """What view number `view` shows of the images in these rows of a set; the same for every training and worker."""
    upto = int(rows.max()) + 1
    return draw_boxes(upto, recipe.image_size, recipe.crop_scale, recipe.flip, "label.view", view)[rows]


def view_patches(rows: np.ndarray, view: int, recipe: Recipe) -> np.ndarray | None:
    """How view number `view` shuffles the patches of these rows, (2, n, size); None where patches are not shuffled."""
    drawn = draw_patches(int(rows.max()) + 1, recipe.image_size, recipe.patches, "label.view", view)
    return None if drawn is None else drawn[:, rows]


def quantise(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of logits (n, K) float32 -> codes (n, K) uint8, and `low` and `step` (n,) float32: low + step x code.

    A logit is off by half a step at most, which is 1 / 510 of the range of its row. Raises StageFailed if not finite.
    """
    if not np.isfinite(logits).all():
        raise StageFailed("label: the teacher gave a logit that is not finite; try label.dtype=float32")
    low = logits.min(1)
    step = ((logits.max(1) - low) / LEVELS).astype(np.float32)
    codes = np.rint((logits - low[:, None]) / np.maximum(step, np.finfo(np.float32).tiny)[:, None])
    return codes.astype(np.uint8), low, step


@dataclass(frozen=True)
class Views:
    """All stored views of a set of N images: V boxes each, codes (V, N, K) uint8, low and step (V, N) float32."""

    boxes: tuple[Boxes, ...]
    codes: Tensor
    low: Tensor
    step: Tensor

    def of(self, epoch: int) -> int:
        """The view that an epoch shows."""
        return epoch % len(self.boxes)


class StoredTargets:
    """Targets out of `views`: the epochs go through them in order. CutMix mixes the labels of the two images."""

    of_mixed = False

    def __init__(self, views: Views, temperature: float) -> None:
        self.views, self.temperature = views, temperature

    def __call__(self, x: Tensor, epoch: int, rows: np.ndarray) -> Tensor:
        view, index = self.views.of(epoch), torch.from_numpy(rows)
        low, step = (t[view, index].to(x.device)[:, None] for t in (self.views.low, self.views.step))
        logits = low + step * self.views.codes[view, index].to(x.device)
        return (logits / self.temperature).softmax(1)
