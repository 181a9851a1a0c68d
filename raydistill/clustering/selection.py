"""Greedy choices of k among the N points of a class: herding and k-centre. Baselines that pick real images.

Both ask, k times, how far every point is from one place: O(N k D) time, one pass over the points a pick, distances in
float64. Equal distances go to the lowest row; equal rows have equal distances whatever their place, so that neither
threads nor the layout in memory change a choice.
"""

from __future__ import annotations

import numpy as np

ROWS = 64  # rows whose float64 differences are held at a time


def herding(x: np.ndarray, k: int) -> np.ndarray:
    """Rows (k,) int64 of x (N, D), each at most once, whose running mean stays as near the mean of x as it can.

    Pick j + 1 minimises |mu - (s + x) / (j + 1)| with s the sum of the picks so far: it is the point nearest
    (j + 1) mu - s (Welling 2009; without replacement as in Rebuffi et al. 2017, algorithm 4). The error of the mean
    falls about as 1 / k, for random picks as 1 / sqrt(k). Raises ValueError unless 1 <= k <= N.
    """
    x = _points(x, k)
    mean = x.mean(axis=0, dtype=np.float64)
    free = np.ones(len(x), bool)
    total = np.zeros_like(mean)
    picks = []
    for count in range(1, k + 1):
        distance = np.where(free, squared(x, count * mean - total), np.inf)
        picks.append(int(distance.argmin()))
        free[picks[-1]] = False
        total += x[picks[-1]]
    return np.array(picks, np.int64)


def kcenter(x: np.ndarray, k: int) -> np.ndarray:
    """Rows (k,) int64 of x (N, D), each at most once: the point nearest the mean, then always the one farthest from
    all picks (Gonzalez 1985; as the core-set of Sener & Savarese 2018, algorithm 1).

    No k points cover x with less than half the radius of these. Raises ValueError unless 1 <= k <= N.
    """
    x = _points(x, k)
    picks = [int(squared(x, x.mean(axis=0, dtype=np.float64)).argmin())]
    nearest = np.full(len(x), np.inf)
    while len(picks) < k:
        nearest = np.minimum(nearest, squared(x, x[picks[-1]]))
        nearest[picks[-1]] = -1  # below every distance, so that a duplicate goes before what is picked already
        picks.append(int(nearest.argmax()))
    return np.array(picks, np.int64)


def squared(x: np.ndarray, point: np.ndarray) -> np.ndarray:
    """Squared distances (N,) float64 of the rows of x (N, D) to point (D,)."""
    point = point.astype(np.float64)
    distance = np.empty(len(x))
    for i in range(0, len(x), ROWS):
        offset = x[i : i + ROWS] - point
        distance[i : i + ROWS] = np.einsum("nd,nd->n", offset, offset)
    return distance


def _points(x: np.ndarray, k: int) -> np.ndarray:
    """float16 becomes float32, which is exact and quicker to compute with."""
    if not 1 <= k <= len(x):
        raise ValueError(f"cannot pick {k} of {len(x)} points")
    return np.ascontiguousarray(x, np.float32 if x.dtype in (np.float16, np.float32) else np.float64)
