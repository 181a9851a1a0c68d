"""The augmentation of a recipe: drawn for an epoch at once, per sample; carried out batch by batch on the device."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from raydistill.evaluation.colour import Colours, draw_colours, recolour
from raydistill.evaluation.geometry import Boxes, draw_boxes, draw_patches, matrices, resample
from raydistill.evaluation.images import ImageSet
from raydistill.evaluation.recipe import Recipe
from raydistill.evaluation.stored import Views


class Augment:
    """What a training makes of its images. The draw for a sample depends on (seed, epoch, its row) alone.

    With stored `views` their boxes and flips are shown again instead.
    """

    def __init__(self, images: ImageSet, recipe: Recipe, seed: int, views: Views | None = None) -> None:
        self.images, self.recipe, self.seed, self.views = images, recipe, seed, views
        self.epoch: int | None = None
        self.drawn: tuple[Boxes, np.ndarray | None, Colours | None]

    def __call__(self, epoch: int, rows: np.ndarray) -> Tensor:
        """The images of rows (n,) int64 as seen in this epoch, normalised: float32 (n, 3, S, S)."""
        if epoch != self.epoch:
            self.drawn, self.epoch = self.draw(epoch), epoch
        boxes, patches, colours = self.drawn
        pixels = self.images.pixels
        x = pixels[torch.from_numpy(rows).to(pixels.device)].to(torch.float32)
        if self.recipe.crop_scale < 1 or self.recipe.flip or patches is not None:
            moved = None if patches is None else patches[:, rows]
            x = resample(x, *matrices(boxes[rows], x.shape[-1], moved, x.device))
        return recolour(x, None if colours is None else colours[rows])

    def draw(self, epoch: int) -> tuple[Boxes, np.ndarray | None, Colours | None]:
        """The draws of every image in one epoch."""
        r, n, size, key = self.recipe, len(self.images), self.images.pixels.shape[-1], (self.seed, epoch)
        v = self.views
        return (
            draw_boxes(n, size, r.crop_scale, r.flip, *key) if v is None else v.boxes[v.of(epoch)],
            draw_patches(n, size, r.patches, *key),
            draw_colours(n, r.jitter, r.lighting, *key),
        )
