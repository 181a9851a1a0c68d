"""A class too large for one task: its rows stay in the bucket's file, and tasks work on pieces of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from raydistill.clustering.points import Whole, one_thread
from raydistill.stages import fan_out
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
        piece_id = (str(self.artifact.location), self.bucket.sha256, self.start, self.count)
        if piece_id not in _held:
            _held.clear()
            self.artifact.verify_once(self.bucket)
            table = self.artifact.read_rows(self.bucket, self.start, self.start + self.count, ["latent"])
            _held[piece_id] = schemas.tensor_numpy(table["latent"]).reshape(self.count, -1)
        return _held[piece_id]


_held: dict[tuple[str, str, int, int], np.ndarray] = {}


@dataclass(frozen=True)
class PointsInFile:
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
        for answers in fan_out.run(_answer, calls, self.num_cpus):
            yield from answers


def _answer(piece: Piece, work: Callable[..., Any], rows: np.ndarray, *columns: np.ndarray) -> list[Any]:
    with one_thread():
        return list(Whole(piece.read()).map(work, rows, *columns))
