"""Lloyd over chunks: the same whole or split, exact where the answer is known, no worse than the unsplit k-means."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from raydistill.clustering import divisive, points
from raydistill.clustering.divisive import grow
from raydistill.clustering.kmeans import kmeans
from raydistill.clustering.lloyd import assign, kmeans_in_chunks, lloyd, plus_plus
from raydistill.clustering.points import Whole, chunks, distinct, gather, pick
from raydistill.seeding import generator


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(points, "CHUNK", 32)


@dataclass(frozen=True)
class Split:
    """Points that lie in pieces of whole chunks; work travels to them as bytes, and the last piece answers first."""

    pieces: tuple[np.ndarray, ...]

    @property
    def count(self) -> int:
        return sum(map(len, self.pieces))

    @property
    def dim(self) -> int:
        return self.pieces[0].shape[1]

    def map(self, work: Callable[..., Any], rows: np.ndarray, *columns: np.ndarray) -> Iterator[Any]:
        sent, start, answers = pickle.dumps(work), 0, []
        for piece in self.pieces:
            inside = (rows >= start) & (rows < start + len(piece))
            answers.append((piece, rows[inside] - start, [c[inside] for c in columns]))
            start += len(piece)
        done = [list(Whole(p).map(pickle.loads(sent), r, *c)) for p, r, c in answers[::-1]][::-1]
        for part in done:
            yield from part


def split(x: np.ndarray, *pieces: int) -> Split:
    return Split(tuple(np.split(x, np.cumsum(pieces) * points.CHUNK)))


def clouds(count: int, dim: int = 8, centres: int = 6, seed: int = 0) -> np.ndarray:
    """Float32 whose sums depend on their order in float64."""
    rng = np.random.default_rng(seed)
    means = 3 * rng.standard_normal((centres, dim))
    return (means[rng.integers(centres, size=count)] + rng.standard_normal((count, dim))).astype(np.float32)


SPLITS = pytest.mark.parametrize("pieces", [(1,), (3, 1), (1, 1, 1, 1, 1), (5,)], ids=str)


@SPLITS
def test_a_split_tree_is_the_whole_one(pieces: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(divisive, "LOWEST", 40)
    x = clouds(190)
    x[100:120] = x[3]
    whole, parted = grow(x, 25), grow(split(x, *pieces), 25)
    for field in ("parent", "split", "size", "sse", "medoid", "centroid", "leaf"):
        assert np.array_equal(getattr(whole, field), getattr(parted, field)), field


@SPLITS
def test_split_k_means_is_the_whole_one(pieces: tuple[int, ...]) -> None:
    x = clouds(190)
    whole, parted = kmeans_in_chunks(Whole(x), 7, 50, 3, (0,)), kmeans_in_chunks(split(x, *pieces), 7, 50, 3, (0,))
    for field in ("centroids", "labels", "size", "sse", "medoid"):
        assert np.array_equal(getattr(whole, field), getattr(parted, field)), field


def test_chunks_are_those_of_the_class_whatever_rows_are_asked_for() -> None:
    rows = np.array([0, 31, 32, 70, 95, 96, 200])
    assert [rows[c].tolist() for c in chunks(rows)] == [[0, 31], [32], [70, 95], [96], [200]]
    assert list(chunks(np.zeros(0, np.int64))) == []


def test_rows_are_found_again() -> None:
    x = clouds(100)
    s = split(x, 2)
    assert np.array_equal(gather(s, np.array([1, 40, 99])), x[[1, 40, 99]])
    assert np.array_equal(pick(s, np.array([99, 1, 99])), x[[99, 1, 99]])
    assert gather(s, np.zeros(0, np.int64)).shape == (0, 8)


def test_equal_points_are_one() -> None:
    x = np.array([[1, 2], [0.0, 3], [1, 2], [-0.0, 3], [1, 3]], np.float16)
    rows, of = distinct(Whole(x))
    assert rows.tolist() == [0, 1, 4] and of.tolist() == [0, 1, 0, 1, 2]


def test_a_step_is_lloyds() -> None:
    """Weights count as copies; two restarts do not touch each other; an empty cluster keeps its centre."""
    x = Whole(np.array([[0.0], [1], [10], [11]], np.float32))
    start = np.array([[[0.0], [10.0]], [[0.0], [99.0]]])
    fit = lloyd(x, np.arange(4), np.array([1.0, 1, 1, 3]), start, 1)
    assert fit.centres.ravel().tolist() == [0.5, 10.75, pytest.approx(44 / 6), 99]
    assert fit.mass.tolist() == [[2, 4], [6, 0]]
    assert fit.sse.tolist() == pytest.approx([0.5 + 0.75, 1 + 100 + 3 * 121 - 44**2 / 6])
    assert assign(x, np.arange(4), fit.centres[0]).tolist() == [0, 0, 1, 1]


def test_starts_are_drawn_by_squared_distance() -> None:
    """From 0, a point three times as far is drawn nine times as often."""
    x = Whole(np.array([[0.0], [1.0], [-3.0]], np.float32))
    starts = plus_plus(x, np.arange(3), np.array([1e9, 1.0, 1.0]), 2, 4000, generator("starts"))
    assert (starts[:, 0] == 0).all()
    far = (starts[:, 1, 0] == -3).mean()
    assert abs(far - 0.9) < 0.02


def test_it_finds_what_k_means_finds() -> None:
    x = clouds(400)
    mine, theirs = kmeans_in_chunks(Whole(x), 6, 100, 10, (0,)), kmeans(x, 6, 100, 10, (0,))
    assert np.array_equal(mine.labels, theirs.labels) and np.array_equal(mine.medoid, theirs.medoid)
    np.testing.assert_allclose(mine.centroids, theirs.centroids, rtol=1e-5)
    np.testing.assert_allclose(mine.sse, theirs.sse, rtol=1e-5)


def test_equal_points_limit_the_clusters() -> None:
    x = np.repeat(np.array([[0, 0], [1, 0], [0, 9]], np.float16), [50, 30, 20], axis=0)
    clusters = kmeans_in_chunks(Whole(x), 10, 10, 2, (0,))
    assert clusters.centroids.tolist() == [[0, 0], [1, 0], [0, 9]] and clusters.size.tolist() == [50, 30, 20]
    assert not clusters.sse.any() and clusters.medoid.tolist() == [0, 50, 80]
    with pytest.raises(ValueError, match="cannot make 1 clusters of 0 points"):
        kmeans_in_chunks(Whole(x[:0]), 1, 10, 2, (0,))
