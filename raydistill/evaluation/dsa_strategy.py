"""DSA (Zhao and Bilen 2021) as DC, DSA, DM and MTT evaluate with it: a strategy names augmentations, such as
color_crop_cutout_flip_scale_rotate.

A batch goes through one of them, drawn anew; its parameters are drawn for every image. On normalised pixels: `color` is
brightness, saturation and contrast; `crop` a shift by up to an eighth of a side; `cutout` sets a square of half a side,
cut at the border, to 0; `flip` turns half of the images; `scale` and `rotate` as dsa.py, whose numbers these are.

`idc` is what IDC's release makes of that strategy for CIFAR-10: every batch is recoloured, then goes through one of
crop, scale and rotate. Flips are a recipe's own there, and cutout gives way to CutMix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from raydistill.evaluation.dsa import SHIFT, draw_colours, draw_scales, draw_shifts, draw_turns, move, recoloured
from raydistill.seeding import generator

PARTS = ("color", "crop", "cutout", "flip", "scale", "rotate")
PUBLISHED = "_".join(PARTS)
IDC, OF_IDC = "idc", ("crop", "scale", "rotate")
HOLE = 0.5  # of a side


def parts_of(strategy: str) -> list[str]:
    """Those of which a batch goes through one. Raises ValueError for a name that is none, or comes twice."""
    if strategy == IDC:
        return list(OF_IDC)
    parts = strategy.split("_")
    unknown = [part for part in parts if part not in PARTS]
    if unknown or len(set(parts)) < len(parts):
        raise ValueError(f"{strategy!r} is no strategy; join some of {', '.join(PARTS)}, as in {PUBLISHED}")
    return parts


@dataclass(frozen=True)
class Strategic:
    """What is drawn for every image: colour (n, 3), places (n, 2, 3) by the name of a part, centres (n, 2), flips (n,).

    Rows are taken by indexing.
    """

    colour: np.ndarray
    where: dict[str, np.ndarray]
    hole: np.ndarray
    flip: np.ndarray

    def __getitem__(self, rows: np.ndarray) -> Strategic:
        where = {part: places[rows] for part, places in self.where.items()}
        return Strategic(self.colour[rows], where, self.hole[rows], self.flip[rows])


def draw_strategic(n: int, size: int, *key: object) -> Strategic:
    """Row i depends on (key, i) alone."""
    where = {"crop": draw_shifts(n, size, SHIFT, *key), "scale": draw_scales(n, *key), "rotate": draw_turns(n, *key)}
    hole = generator("augment.dsa.hole", *key).integers(0, size + 1 - _side(size) % 2, size=(n, 2))
    flip = generator("augment.dsa.flip", *key).random(n) < 0.5
    return Strategic(draw_colours(n, *key), where, hole, flip)


def draw_part(parts: Sequence[str], *key: object) -> str:
    """Which of them a batch goes through."""
    return parts[int(generator("augment.dsa.part", *key).integers(len(parts)))]


def augmented(x: Tensor, strategy: str, drawn: Strategic, *key: object) -> Tensor:
    """x (n, 3, S, S) normalised, by a strategy; (key) decides the part."""
    if strategy == IDC:
        x = strategic(x, "color", drawn)
    return strategic(x, draw_part(parts_of(strategy), *key), drawn)


def strategic(x: Tensor, part: str, drawn: Strategic) -> Tensor:
    """x (n, 3, S, S) normalised, through one part of a strategy."""
    if part == "color":
        return recoloured(x, drawn.colour)
    if part == "flip":
        return torch.where(torch.from_numpy(drawn.flip).to(x.device)[:, None, None, None], x.flip(3), x)
    if part == "cutout":
        return x * _outside(x.shape[-1], drawn.hole, x.device)
    return move(x, drawn.where[part])


def _outside(size: int, hole: np.ndarray, device: torch.device) -> Tensor:
    """(n, 1, S, S): 0 in a square around each centre (n, 2), 1 elsewhere; the border cuts it."""
    side, at = _side(size), torch.arange(size, device=device)
    first = torch.from_numpy(hole).to(device) - side // 2
    inside = (at >= first[:, :, None]) & (at < first[:, :, None] + side)  # (n, 2, S)
    return 1 - (inside[:, 0, :, None] & inside[:, 1, None, :]).float()[:, None]


def _side(size: int) -> int:
    return int(size * HOLE + 0.5)
