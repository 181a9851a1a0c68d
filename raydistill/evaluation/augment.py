"""The augmentation of a recipe: drawn for an epoch at once, per sample; carried out batch by batch on the device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from raydistill.evaluation.colour import Colours, draw_colours, recolour
from raydistill.evaluation.dsa import draw_shifts, move
from raydistill.evaluation.dsa_strategy import Strategic, augmented, draw_strategic
from raydistill.evaluation.geometry import Boxes, draw_boxes, draw_patches, matrices, resample
from raydistill.evaluation.images import ImageSet
from raydistill.evaluation.recipe import Recipe
from raydistill.evaluation.stored import Views, view_patches


@dataclass(frozen=True)
class Draws:
    """What is drawn for every image in one epoch; None for what a recipe does not do."""

    boxes: Boxes
    patches: np.ndarray | None
    shifts: np.ndarray | None
    colours: Colours | None
    strategic: Strategic | None


class Augment:
    """What a training makes of its images. The draw for a sample depends on (seed, epoch, its row) alone.

    With stored `views` their boxes, flips and patches are shown again instead.
    """

    def __init__(self, images: ImageSet, recipe: Recipe, seed: int, views: Views | None = None) -> None:
        self.images, self.recipe, self.seed, self.views = images, recipe, seed, views
        self.epoch: int | None = None
        self.drawn: Draws

    def __call__(self, epoch: int, rows: np.ndarray, step: int = 0) -> Tensor:
        """The images of rows (n,) int64 as seen in this epoch, normalised: float32 (n, 3, S, S).

        `step` decides what is drawn for the batch as a whole.
        """
        if epoch != self.epoch:
            self.drawn, self.epoch = self.draw(epoch), epoch
        d, x = self.drawn, self.images.shown(torch.from_numpy(rows)).to(torch.float32)
        if self.recipe.crop_scale < 1 or self.recipe.flip or d.patches is not None:
            moved = None if d.patches is None else d.patches[:, rows]
            x = resample(x, *matrices(d.boxes[rows], x.shape[-1], moved, x.device))
        if d.shifts is not None:
            x = move(x, d.shifts[rows])
        x = recolour(x, None if d.colours is None else d.colours[rows], self.recipe.statistics)
        return x if d.strategic is None else augmented(x, str(self.recipe.dsa), d.strategic[rows], self.seed, step)

    def draw(self, epoch: int) -> Draws:
        """The draws of every image in one epoch."""
        r, n, size, key = self.recipe, len(self.images), self.images.pixels.shape[-1], (self.seed, epoch)
        v = self.views
        return Draws(
            draw_boxes(n, size, r.crop_scale, r.flip, *key) if v is None else v.boxes[v.of(epoch)],
            draw_patches(n, size, r.patches, *key) if v is None else view_patches(np.arange(n), v.of(epoch), r),
            draw_shifts(n, size, r.shift, *key) if r.shift else None,
            draw_colours(n, r.jitter, r.lighting, *key),
            draw_strategic(n, size, *key) if r.dsa else None,
        )
