"""A class's latents on two axes, and the real image nearest to each synthesis. Pure numpy, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from raydistill.report.data import Projection

MAX_FIT = 1000
_BLOCK = 256


def project(real: np.ndarray, prototypes: np.ndarray, syntheses: np.ndarray) -> Projection:
    """Two-dimensional PCA fitted on `real` (N, D); `prototypes` (P, D) and `syntheses` (S, D) are put on the same axes.

    At most MAX_FIT rows, evenly spaced, fit the axes; every row is projected. Axes without variance are zero, so one
    image, or many equal ones, give finite points. The sign is fixed: an axis's largest loading is positive.
    """
    mean, axes, explained = _principal_axes(real[spread(len(real), MAX_FIT)])
    onto = [_project_rows(points, mean, axes) for points in (real, prototypes, syntheses)]
    return Projection(onto[0], onto[1], onto[2], explained)


def nearest(syntheses: np.ndarray, real: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row of `real` (N, D) nearest to each of `syntheses` (S, D): index (S,) int64 and L2 distance (S,) float64.

    Of equally near rows the first wins. N must be at least 1.
    """
    if len(real) == 0:
        raise ValueError("nearest: there is no real latent to be near to")
    index = np.zeros(len(syntheses), np.int64)
    distance = np.full(len(syntheses), np.inf)
    points = np.asarray(syntheses, np.float64)
    for start, rows in _blocks(real):
        square = (points**2).sum(1)[:, None] + (rows**2).sum(1)[None] - 2 * points @ rows.T  # (S, B)
        best = square.argmin(1)
        exact = np.sqrt(((points - rows[best]) ** 2).sum(1))  # cancellation-free
        closer = exact < distance
        index[closer], distance[closer] = start + best[closer], exact[closer]
    return index, distance


def spread(count: int, limit: int) -> np.ndarray:
    """Indices of at most `limit` of `count` rows, evenly spaced and ascending: a subsample that never changes."""
    if count <= limit:
        return np.arange(count)
    return np.arange(limit) * count // limit


def _principal_axes(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """`points` (N, D) -> mean (D,), axes (2, D) orthonormal or zero, share of variance on them.

    Works on the N x N Gram matrix of the centred rows, or the D x D scatter matrix if that is the smaller one.
    """
    centred = np.array(points, np.float64)
    size = float(np.vdot(centred, centred))
    mean = centred.mean(0) if len(centred) else np.zeros(points.shape[1])
    centred -= mean
    axes = np.zeros((2, points.shape[1]))
    total = float(np.vdot(centred, centred))
    if total <= size * 1e-24:  # what is left is rounding
        return mean, axes, 0.0
    wide = centred.shape[1] > centred.shape[0]
    values, vectors = np.linalg.eigh(centred @ centred.T if wide else centred.T @ centred)
    kept = [i for i in (-1, -2) if len(values) >= -i and values[i] > values[-1] * 1e-12]
    for row, i in enumerate(kept):
        axis = vectors[:, i] @ centred if wide else vectors[:, i]
        axis = axis / np.linalg.norm(axis)
        axes[row] = axis * np.sign(axis[np.abs(axis).argmax()])
    return mean, axes, min(1.0, float(sum(values[i] for i in kept)) / total)


def _project_rows(points: np.ndarray, mean: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """(N, D) -> (N, 2) float64."""
    parts = [(rows - mean) @ axes.T for _, rows in _blocks(points)]
    return np.concatenate(parts) if parts else np.zeros((0, 2))


def _blocks(points: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """(N, D) of any float type -> (first row, up to _BLOCK rows as float64)."""
    for start in range(0, len(points), _BLOCK):
        yield start, np.asarray(points[start : start + _BLOCK], np.float64)


def plane(real: np.ndarray, syntheses: np.ndarray) -> tuple[np.ndarray, str]:
    """All rows of `real` (N, D) and `syntheses` (S, D) on one plane, and how: t-SNE of their principal components.

    Returns (N + S, 2) float64, the real ones first. Deterministic for one thread. Few or equal rows, for which t-SNE
    means nothing, are put on two principal axes.
    """
    points = np.concatenate([real, syntheses]).astype(np.float32)
    if len(points) < 30 or not np.ptp(points, axis=0).any():
        flat = project(real, np.zeros((0, real.shape[1])), syntheses)
        return np.concatenate([flat.real, flat.syntheses]), "Two principal axes of the real latents."
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    k = min(50, len(points) - 1, points.shape[1])
    components = PCA(k, svd_solver="randomized", random_state=0).fit_transform(points)
    perplexity = min(30, (len(points) - 1) // 3)
    placed = TSNE(2, perplexity=perplexity, init="pca", random_state=0, max_iter=500).fit_transform(components)
    return placed.astype(np.float64), (
        f"t-SNE of the latents ({k} principal components, perplexity {perplexity}) of {len(real):,} real images, "
        f"evenly from all classes, and {len(syntheses):,} syntheses. Neighbours are meaningful, distances between far "
        "groups are not."
    )
