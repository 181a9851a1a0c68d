"""What is trained on, in memory: pixels for a VAE, latents for a generator."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch

from raydistill.config import SourceConfig
from raydistill.errors import BrokenImage, StageFailed
from raydistill.sources.base import Listing, Source
from raydistill.sources.images import decode

READ, BLOCK = 256, 4096
VALIDATION = 2048  # images at most
IMAGE, CLASS, LATENT = "image_id", "class_index", "latent"


def load_pixels(
    source: Source, listing: Listing, config: SourceConfig, warn: Callable[[str], None] = lambda line: None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Decodes a split: pixels uint8 (N, H, W, 3) and labels int64 (N,), in the listing's order.

    Broken images are named through `warn` and left out. Raises StageFailed above `source.max_broken`.
    """
    ids = listing.ids.to_pylist()
    rows, labels, broken = [], [], list[str]()
    for start in range(0, len(ids), READ):
        names = ids[start : start + READ]
        for offset, data in enumerate(source.read(listing.split, names)):
            try:
                rows.append(decode(data, config.image_size, config.max_pixels))
            except BrokenImage as e:
                broken.append(f"{names[offset]}: {e}")
                warn(f"skipped {broken[-1]}")
                continue
            labels.append(int(listing.labels[start + offset]))
    if not rows or len(broken) > config.max_broken * len(ids):
        raise StageFailed(
            f"pretrain: {len(broken)} of {len(ids)} images are broken, more than source.max_broken="
            f"{config.max_broken}; the first is {broken[0]}"
        )
    return torch.from_numpy(np.stack(rows)), torch.tensor(labels, dtype=torch.int64)


@dataclass(frozen=True)
class TrainingLatents:
    """VAE-scaled latents as they came: `values` (N, C, h, w) float16, `classes` (N,) int64, indices into the listing's.

    `order` (N,) int64 sorts them by image id: what is drawn depends neither on how images were cut into chunks nor on
    which chunk was read first. Nothing is moved: ImageNet-1K at 256 pixels takes 10 GB.
    """

    values: np.ndarray
    classes: np.ndarray
    order: np.ndarray

    @classmethod
    def collect(cls, batches: Iterable[dict[str, np.ndarray]], count: int) -> TrainingLatents:
        """From batches with the columns of `schemas.latents`, `count` rows in all. Raises StageFailed for fewer."""
        values, classes, names, done = np.empty(0, np.float16), np.empty(count, np.int64), list[np.ndarray](), 0
        for batch in batches:
            rows = slice(done, done := done + len(batch[CLASS]))
            if not names:
                values = np.empty((count, *batch[LATENT].shape[1:]), np.float16)
            values[rows], classes[rows] = batch[LATENT], batch[CLASS]
            names.append(batch[IMAGE].astype(np.str_))
        if done != count or not count:
            raise StageFailed(f"pretrain: {done} of {count} latents came; run the same command again")
        return cls(values, classes, np.argsort(np.concatenate(names), kind="stable"))

    def __len__(self) -> int:
        return len(self.classes)

    def take(self, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents float16 (B, C, h, w) and classes int64 (B,) of some rows, by their place in the order."""
        at = self.order[rows]
        return torch.from_numpy(self.values[at]), torch.from_numpy(self.classes[at])

    def deviation(self) -> float:
        """Standard deviation over all elements, in float64 and in the order."""
        total = square = 0.0
        for start in range(0, len(self), BLOCK):
            block = self.values[self.order[start : start + BLOCK]].astype(np.float64)
            total, square = total + float(block.sum()), square + float(np.square(block).sum())
        mean = total / self.values.size
        return float(np.sqrt(square / self.values.size - mean**2))


def held_for_validation(listing: Listing) -> Listing:
    """The images that generators are validated on: all of a small split, the same sample of a large one."""
    keep = np.zeros(len(listing), bool)
    keep[np.random.Generator(np.random.Philox(0)).permutation(len(listing))[:VALIDATION]] = True
    return listing.take(keep)
