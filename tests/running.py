"""Runs of the whole pipeline that several tests share: the smallest configuration, its command, its traces."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from raydistill.sources.images import png


def write_digits(path: Path, train: int = 2, val: int = 1) -> Path:
    """An ImageFolder of ten classes named "0" to "9", so that the packaged generator fits; the same bytes always."""
    for split, count in (("train", train), ("val", val)):
        for c in range(10):
            folder = path / split / str(c)
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = np.random.default_rng([c, i, count]).integers(0, 255, (9, 11, 3)).astype(np.uint8)
                (folder / f"{i:03d}.png").write_bytes(png(pixels))
    return path
