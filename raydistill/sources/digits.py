"""The 1,797 handwritten digits inside scikit-learn (8x8, 16 greys; UCI optdigits test set): no network, no file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np
import pyarrow as pa

from raydistill.config import SourceConfig
from raydistill.errors import BadInput
from raydistill.registry import register
from raydistill.sources.base import ClassInfo, Listing
from raydistill.sources.images import png

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@cache
def _data() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits  # seconds to import: only where digits are asked for

    data = load_digits()
    return (data.images * (255 / 16)).round().astype(np.uint8), data.target.astype(np.int32)


@register("source", "digits")
class Digits:
    """Every fourth image is validation (449), the others training (1,348). Bright strokes on black, as embedded."""

    def __init__(self, config: SourceConfig) -> None:
        if config.path is not None:
            raise BadInput(
                "source.path: the digits are embedded and have no path; remove it or choose another source.kind"
            )

    def list(self, split: str) -> Listing:
        if split not in ("train", "val"):
            raise BadInput(f"source: digits have the splits train and val, not {split!r}")
        _, target = _data()
        index = np.array([i for i in range(len(target)) if (i % 4 == 3) == (split == "val")])
        ids = pa.array([f"digit-{i:04d}" for i in index])
        classes = tuple(ClassInfo(str(i), name) for i, name in enumerate(NAMES))
        return Listing(split, classes, ids, target[index], pa.array(["embedded"] * len(index)))

    def read(self, split: str, ids: Sequence[str]) -> Iterator[bytes]:
        images, _ = _data()
        for name in ids:
            yield png(np.repeat(images[int(name.removeprefix("digit-"))][..., None], 3, axis=2))
