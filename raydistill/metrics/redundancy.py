"""Redundancy between the parts of a set (LGD, arXiv 2604.00519): what one part already says about the others.

One classifier is trained on each part and tested on the images of every part; that is the caller's. It is
therefore not a `Metric`: these are its split and its formula.
"""

from __future__ import annotations

import numpy as np

from raydistill.seeding import generator


def redundancy_parts(y: np.ndarray, parts: int, seed: int) -> np.ndarray:
    """Which part (m,) int64 in [0, parts) each image belongs to; y (m,) are the labels.

    Each class is split at random into parts that differ by one image at most: 50 images a class and 5 parts make 5 sets
    of 10. A class's split depends on the seed, its label and the order of its images alone. Raises ValueError if a
    class has fewer images than there are parts.
    """
    y = np.asarray(y)
    if parts < 2:
        raise ValueError(f"redundancy: parts={parts} must be at least 2")
    part_of = np.empty(len(y), np.int64)
    for label in np.unique(y):
        rows = np.flatnonzero(y == label)
        if len(rows) < parts:
            raise ValueError(f"redundancy: class {label} has {len(rows)} images, too few for {parts} parts")
        part_of[generator("increments", seed, int(label)).permutation(rows)] = np.arange(len(rows)) % parts
    return part_of


def redundancy(accuracy: np.ndarray) -> float:
    """Mean of the off-diagonal of accuracy (S, S): trained on part i, tested on j, in [0, 1]. Lower is better.

    Raises ValueError for another shape, fewer than two parts, or numbers that are no shares.
    """
    a = np.asarray(accuracy, np.float64)
    if a.ndim != 2 or a.shape[0] != a.shape[1] or len(a) < 2:
        raise ValueError(f"redundancy: accuracies must be a square of at least 2 x 2, not {a.shape}")
    if not ((a >= 0) & (a <= 1)).all():
        raise ValueError("redundancy: accuracies must lie between 0 and 1")
    return float(a[~np.eye(len(a), dtype=bool)].mean())
