"""Validation images where nobody gave any: a share of each class's training images, source.val=split:0.2."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa

from raydistill.errors import BadInput
from raydistill.identity import digest

PREFIX = "split:"
WRITTEN = re.compile(r"split:(?P<share>0?\.\d+)(?::(?P<seed>\d{1,9}))?", re.ASCII)
BLOCK = 65536  # ids held as Python texts at a time
REMEDY = "source.val=split:0.2, which holds a fifth of each class's training images out to test on"


def share_of(val: str) -> tuple[float, int] | None:
    """The share and the seed that `source.val` asks for; None if it names a split. Raises BadInput for another text."""
    if not val.startswith(PREFIX):
        return None
    match = WRITTEN.fullmatch(val)
    share = float(match["share"]) if match else 0.0
    if match is None or not 0 < share <= 0.5:
        raise BadInput(
            f"source.val={val}: write split:SHARE, a share of the training images of at most a half, or "
            "split:SHARE:SEED, for example split:0.2"
        )
    return share, int(match["seed"] or 0)


def by_class(ids: pa.Array, labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """(N,) bool: of each class the `share` of images whose keys, hashes of seed and id, are the lowest.

    At least one image of a class, and never all. An image's key depends neither on order nor on the other images.
    """
    keys = np.empty(len(ids), np.uint64)
    for start in range(0, len(ids), BLOCK):
        names = ids[start : start + BLOCK].to_pylist()
        keys[start : start + BLOCK] = [int(digest(f"{seed}:{name}".encode())[:16], 16) for name in names]
    order = np.lexsort((keys, labels))
    counts = np.bincount(labels)
    starts = np.repeat(np.cumsum(counts) - counts, counts)
    held = np.minimum(np.maximum(np.rint(share * counts), 1), counts - 1)
    mask = np.zeros(len(ids), bool)
    mask[order] = np.arange(len(ids)) - starts < held[labels[order]]
    return mask
