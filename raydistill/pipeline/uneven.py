"""Weights that leave few images to count, said where a setting of the quantiser is known to make its cells even."""

from __future__ import annotations

import numpy as np

from raydistill.clustering.base import Clustering


def advice(clustering: Clustering, sizes: np.ndarray, left: float, ipc: int) -> str | None:
    """What weights leave of `ipc` images a class (`left`, their effective sample size), why, and what helps.

    `sizes` (P,) int64 are the images nearest to each atom, of all classes. None where half of the images or more are
    left, or where no setting is known to help.
    """
    remedy = clustering.more_even()
    if remedy is None or 2 * left >= ipc:
        return None
    alone = int((sizes == 1).sum())
    why = f"{alone:,} of {len(sizes):,} atoms are nearest to a single image" if alone else "cells differ much in size"
    return f"weights leave as many as {left:.1f} equal images of {ipc} a class: {why}; {remedy} makes cells more even"
