"""The points of a class, whole in memory or spread over tasks: whoever computes on them sees the same chunks.

A chunk is CHUNK consecutive rows of the class, whoever holds them. What is computed per chunk, and added up in the
order of the chunks, is therefore the same bit for bit however the chunks are shared out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from threadpoolctl import ThreadpoolController

CHUNK = 2048  # rows whose float64 copy is held at a time (64 MiB of 4,096 numbers)


class Points(Protocol):
    """N points of D numbers. `count` = N, `dim` = D."""

    @property
    def count(self) -> int: ...

    @property
    def dim(self) -> int: ...

    def read(self) -> np.ndarray:
        """All of them in memory, (N, D), as they are stored."""
        ...

    def map(self, work: Callable[..., Any], rows: np.ndarray, *columns: np.ndarray) -> Iterator[Any]:
        """work(x (m, D), *columns of these rows) for every chunk that holds some of `rows`, in order.

        x is as it is stored. `rows` are sorted row numbers (n,), `columns` arrays of n entries each; `work` can be
        pickled.
        """
        ...


@dataclass(frozen=True)
class Whole:
    """Points in memory: x (N, D), any float type."""

    x: np.ndarray

    @property
    def count(self) -> int:
        return len(self.x)

    @property
    def dim(self) -> int:
        return int(self.x.shape[1])

    def read(self) -> np.ndarray:
        return self.x

    def map(self, work: Callable[..., Any], rows: np.ndarray, *columns: np.ndarray) -> Iterator[Any]:
        for part in chunks(rows):
            yield work(self.x[rows[part]], *(c[part] for c in columns))


def chunks(rows: np.ndarray) -> Iterator[slice]:
    """Where sorted row numbers change chunk: one slice of `rows` for every chunk that holds some of them."""
    edges = np.flatnonzero(np.diff(rows // CHUNK)) + 1
    bounds = [0, *edges.tolist(), len(rows)]
    for start, stop in pairwise(bounds):
        if stop > start:
            yield slice(start, stop)


def gather(points: Points, rows: np.ndarray) -> np.ndarray:
    """The points (n, D) float64 of sorted row numbers."""
    blocks = list(points.map(float64, rows))
    return np.concatenate(blocks) if blocks else np.zeros((0, points.dim))


def pick(points: Points, rows: np.ndarray) -> np.ndarray:
    """The points (n, D) float64 of a few row numbers in any order, repeated ones too."""
    wanted, where = np.unique(rows, return_inverse=True)
    return gather(points, wanted)[where]


def distinct(points: Points) -> tuple[np.ndarray, np.ndarray]:
    """The first row of every distinct point, sorted (U,), and for every row the place of its point there (N,)."""
    position: dict[bytes, int] = {}
    first: list[int] = []
    of = np.empty(points.count, np.int64)
    row = 0
    for digests in points.map(_digests, np.arange(points.count)):
        for digest in digests:
            if digest not in position:
                position[digest] = len(first)
                first.append(row)
            of[row] = position[digest]
            row += 1
    return np.array(first, np.int64), of


def one_thread() -> AbstractContextManager[Any]:
    """Limits BLAS to one thread: more of them share out a product differently, and tasks share the cores anyway."""
    return _controller().limit(limits=1, user_api="blas")


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


def float64(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float64, copy=False)


def _digests(x: np.ndarray) -> list[bytes]:
    """-0 counts as 0."""
    return [blake2b(row, digest_size=16).digest() for row in x + x.dtype.type(0)]
