"""What a metric remembers of a set: its moments, which stream, or its rows, which may be a bounded sample."""

from __future__ import annotations

import hashlib

import numpy as np

BLOCK = 4096  # rows that are held in float64 at a time


class Moments:
    """Weighted mean (D,) and, if asked for, scatter (D, D) about it, in float64; memory and merging do not grow with N.

    Blocks are centred before they are squared (Chan, Golub & LeVeque 1983), so a mean far from zero costs no digits.
    """

    def __init__(self, scatter: bool = False) -> None:
        self.count, self.total, self.squares = 0, 0.0, 0.0
        self.width: int | None = None
        self.mean = np.zeros(0)
        self.scatter = np.zeros((0, 0)) if scatter else None

    def add(self, x: np.ndarray, y: np.ndarray, w: np.ndarray) -> None:
        for i in range(0, len(x), BLOCK):
            rows, mass = x[i : i + BLOCK].astype(np.float64), w[i : i + BLOCK]
            total = float(mass.sum())
            mean = mass @ rows / total if total > 0 else np.zeros(x.shape[1])
            scatter = None
            if self.scatter is not None:
                rows -= mean
                rows *= np.sqrt(mass)[:, None]
                scatter = rows.T @ rows
            self._join(len(rows), total, float(mass @ mass), mean, scatter)

    def merge(self, other: Moments) -> None:
        if other.count:
            self._join(other.count, other.total, other.squares, other.mean, other.scatter)

    def _join(self, count: int, total: float, squares: float, mean: np.ndarray, scatter: np.ndarray | None) -> None:
        if self.width is None:
            self.width = len(mean)
            self.mean = np.zeros(self.width)
            if self.scatter is not None:
                self.scatter = np.zeros((self.width, self.width))
        whole = self.total + total
        if total > 0:
            shift = mean - self.mean
            if self.scatter is not None and scatter is not None:
                self.scatter += scatter
                self.scatter += np.outer(shift * (self.total * total / whole), shift)
            self.mean = self.mean + shift * (total / whole)
        self.count, self.total, self.squares = self.count + count, whole, self.squares + squares

    @property
    def covariance(self) -> np.ndarray:
        """(D, D), unbiased: divided by W - sum w^2 / W, which is n - 1 for equal weights. Zero for a single row."""
        if self.scatter is None:
            raise ValueError("these moments were made without a scatter")
        freedom = self.total - self.squares / self.total
        return self.scatter / freedom if freedom > 1e-12 * self.total else np.zeros_like(self.scatter)


class Rows:
    """The rows themselves: all of them, or the `limit` (of each class, if `by_class`) whose hashes are the lowest.

    The hash of a row is that of its bytes, its label, its weight and the seed. So the choice is uniform over different
    rows, and neither order, nor batches, nor merging change what is kept or the order in which `get` returns it.
    """

    def __init__(self, seed: int, limit: int | None = None, by_class: bool = False) -> None:
        self.seed, self.limit, self.by_class = seed, limit, by_class
        self.count, self.total = 0, 0.0
        self.width: int | None = None
        self._parts: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []
        self._held = self._kept = 0

    def add(self, x: np.ndarray, y: np.ndarray, w: np.ndarray) -> None:
        self.width = x.shape[1]
        self.count += len(x)
        self.total += float(w.sum())
        self._take((x.copy(), y.copy(), w.copy(), self._hashes(x, y, w)))

    def merge(self, other: Rows) -> None:
        self.width = self.width or other.width
        self.count += other.count
        self.total += other.total
        for part in other._parts:
            self._take(part)

    def get(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """x (n, D) float32, y (n,) int64, w (n,) float64, in the order of the hashes. Not to be written to."""
        if len(self._parts) != 1 or self._held != self._kept:
            self._prune()
        return self._parts[0][:3]

    def weighing(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As `get`, without rows that weigh nothing: they are not of the set."""
        x, y, w = self.get()
        there = w > 0
        return (x, y, w) if there.all() else (x[there], y[there], w[there])

    def _hashes(self, x: np.ndarray, y: np.ndarray, w: np.ndarray) -> np.ndarray:
        x, rest = np.ascontiguousarray(x), np.stack([y.astype(np.float64), w], axis=1)
        key = self.seed.to_bytes(16, "big", signed=True)
        hashes = np.empty(len(x), np.uint64)
        for i in range(len(x)):
            digest = hashlib.blake2b(x[i], digest_size=8, key=key)
            digest.update(rest[i])
            hashes[i] = int.from_bytes(digest.digest(), "big")
        return hashes

    def _take(self, part: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]) -> None:
        self._parts.append(part)
        self._held += len(part[0])
        if self.limit is not None and self._held > 2 * self._kept + BLOCK:
            self._prune()

    def _prune(self) -> None:
        x, y, w, h = (np.concatenate(column) for column in zip(*self._parts, strict=True))
        order = np.argsort(h, kind="stable")
        if self.limit is not None and self.by_class:
            grouped = order[np.argsort(y[order], kind="stable")]
            start = np.searchsorted(y[grouped], y[grouped])
            kept = grouped[np.arange(len(y)) - start < self.limit]
            order = kept[np.argsort(h[kept], kind="stable")]
        order = order[: None if self.by_class else self.limit]
        self._parts = [(x[order], y[order], w[order], h[order])]
        self._held = self._kept = len(order)
