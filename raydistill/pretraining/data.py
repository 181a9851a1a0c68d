"""The training split as tensors in memory, made once a training."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from raydistill.config import SourceConfig
from raydistill.errors import BrokenImage, StageFailed
from raydistill.models.vae import Vae
from raydistill.sources.base import Listing, Source
from raydistill.sources.images import decode

READ, BATCH = 256, 64


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


def encode_all(vae: Vae, pixels: torch.Tensor) -> torch.Tensor:
    """uint8 (N, H, W, 3) -> VAE-scaled latents float32 (N, C, h, w). Every batch has one shape: the last is padded."""
    out = []
    for start in range(0, len(pixels), BATCH):
        part = pixels[start : start + BATCH]
        padded = torch.cat([part, part[-1:].expand(BATCH - len(part), -1, -1, -1)])
        out.append(vae.encode(padded)[: len(part)])
    return torch.cat(out)
