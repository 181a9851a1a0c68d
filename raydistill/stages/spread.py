"""A class too large for one task: its rows stay in the bucket's file, and tasks work on pieces of it."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from raydistill.clustering.points import Whole, one_thread
from raydistill.store import schemas
from raydistill.store.artifact import Artifact, Record


@dataclass(frozen=True)
class Piece:
    """`count` rows of a bucket from row `start` on."""

    artifact: Artifact
    bucket: Record
    start: int
    count: int

    def read(self) -> np.ndarray:
        """Latents as vectors (count, D) float16. A process keeps the last piece that it read."""
        place = (str(self.artifact.location), self.bucket.sha256, self.start, self.count)
        if place not in _held:
            _held.clear()
            self.artifact.verify_once(self.bucket)
            table = self.artifact.read_rows(self.bucket, self.start, self.start + self.count, ["latent"])
            _held[place] = schemas.tensor_numpy(table["latent"]).reshape(self.count, -1)
        return _held[place]


_held: dict[tuple[str, str, int, int], np.ndarray] = {}


@dataclass(frozen=True)
class Stored:
    """The points (clustering/points.py) of a class that stay in a bucket's file; `rows` of them go to a task.

    `rows` is a multiple of CHUNK: it changes who computes a chunk, and nothing else.
    """

    whole: Piece
    dim: int
    rows: int
    num_cpus: float

    @property
    def count(self) -> int:
        return self.whole.count

    def read(self) -> np.ndarray:
        return self.whole.read()

    def map(self, work: Callable[..., Any], rows: np.ndarray, *columns: np.ndarray) -> Iterator[Any]:
        calls = []
        for first in range(0, self.count, self.rows):
            a, b = np.searchsorted(rows, [first, first + self.rows])
            if b > a:
                count = min(self.rows, self.count - first)
                piece = Piece(self.whole.artifact, self.whole.bucket, self.whole.start + first, count)
                calls.append((piece, work, rows[a:b] - first, *(c[a:b] for c in columns)))
        for answers in spread(_answer, calls, self.num_cpus):
            yield from answers


def _answer(piece: Piece, work: Callable[..., Any], rows: np.ndarray, *columns: np.ndarray) -> list[Any]:
    with one_thread():
        return list(Whole(piece.read()).map(work, rows, *columns))


@cache
def _remote(function: Callable[..., Any]) -> Any:
    """Sent to the cluster once, not with every pass over the points."""
    import ray

    return ray.remote(function)


def spread(function: Callable[..., Any], calls: Sequence[tuple[Any, ...]], num_cpus: float) -> Iterator[Any]:
    """function(*call) for every call, in order: as Ray tasks where Ray is up, otherwise here, one after the other.

    Called within a task, whose CPU Ray lends out while it waits.
    """
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        yield from (function(*call) for call in calls)
        return
    remote = _remote(function).options(num_cpus=num_cpus, max_retries=3)
    ahead = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
    waiting, running = deque(calls), deque[Any]()
    while waiting or running:
        while waiting and len(running) < ahead:
            running.append(remote.remote(*waiting.popleft()))
        yield ray.get(running.popleft())
