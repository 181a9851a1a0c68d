"""k-means of a class: every point counts, no worse than scikit-learn's, exact where the answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits, make_blobs

from raydistill.clustering.kmeans import Clusters, kmeans

KEY = (0, "n01440764")


def cluster(x: np.ndarray, k: int, key: tuple[object, ...] = KEY, iterations: int = 100, restarts: int = 3) -> Clusters:
    return kmeans(x, k, iterations, restarts, key)


def check(x: np.ndarray, clusters: Clusters) -> None:
    """What holds of every clustering: it is about these points, and its numbers agree with each other."""
    k = len(clusters.size)
    assert len(clusters.labels) == len(x) == clusters.size.sum() and np.isfinite(clusters.centroids).all()
    assert np.array_equal(np.bincount(clusters.labels, minlength=k), clusters.size) and (clusters.size > 0).all()
    assert clusters.size.tolist() == sorted(clusters.size, reverse=True), "largest first"
    for j in range(k):
        members = x[clusters.labels == j].astype(np.float64)
        np.testing.assert_allclose(clusters.centroids[j], members.mean(0), rtol=1e-5, atol=1e-5)
        distance = ((members - clusters.centroids[j]) ** 2).sum(1)
        assert clusters.sse[j] == pytest.approx(distance.sum(), rel=1e-4, abs=1e-6)
        assert clusters.labels[clusters.medoid[j]] == j, "the medoid is a member"
        to_medoid = ((x[clusters.medoid[j]].astype(np.float64) - clusters.centroids[j]) ** 2).sum()
        assert to_medoid <= distance.min() + 1e-6 * (1 + distance.max()), "the medoid is the nearest member"


def blobs(centres: np.ndarray, sizes: list[int], std: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Points around each centre, shuffled, and which centre each belongs to."""
    rng = np.random.default_rng(seed)
    truth = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    return (centres[truth] + std * rng.standard_normal((len(truth), centres.shape[1]))).astype(np.float32), truth


DATA = {
    "digits": load_digits().data.astype(np.float32),
    "one digit": load_digits().data[load_digits().target == 8].astype(np.float32),
    "overlapping blobs": make_blobs(600, 16, centers=12, cluster_std=6.0, random_state=3)[0].astype(np.float32),
    "noise": np.random.default_rng(0).standard_normal((400, 64)).astype(np.float32),
    "long tail": np.random.default_rng(1).standard_t(2, (500, 4)).astype(np.float32),
}


@pytest.mark.parametrize("k", [2, 10, 50])
@pytest.mark.parametrize("name", DATA)
def test_sse_is_no_worse_than_scikit_learns(name: str, k: int) -> None:
    """Ten starts against ten. With few points a cluster, scikit-learn's greedy starts are ahead by a little."""
    x = DATA[name]
    clusters = cluster(x, k, restarts=10)
    check(x, clusters)
    theirs = KMeans(k, n_init=10, random_state=0).fit(x).inertia_
    few = len(x) < 5 * k
    assert len(clusters.size) == k and clusters.sse.sum() <= (1.06 if few else 1.02) * theirs


def test_separated_blobs_are_found_exactly() -> None:
    centres = 100 * np.eye(6, 8)
    x, truth = blobs(centres, [40, 35, 30, 20, 10, 5], 1.0)
    clusters = cluster(x, 6)
    assert np.array_equal(clusters.labels, truth), "clusters are ordered by size, as the blobs are"
    for j in range(6):
        np.testing.assert_allclose(clusters.centroids[j], x[truth == j].mean(0), atol=1e-4)
    check(x, clusters)


def test_every_point_is_used() -> None:
    """faiss alone would train on 256 points per centroid; a mean over all of them shows that none is left out."""
    x, _ = blobs(np.array([[0.0, 0.0], [100.0, 0.0]]), [3000, 1000], 5.0)
    clusters = cluster(x, 2)
    assert clusters.size.tolist() == [3000, 1000]
    near = x[:, 0] < 50
    np.testing.assert_allclose(clusters.centroids, [x[near].mean(0), x[~near].mean(0)], atol=1e-3)


def test_no_point_would_rather_be_elsewhere() -> None:
    """At the end every point is with its nearest centroid, and every centroid is the mean of all of its points."""
    x = np.random.default_rng(4).random((4000, 2)).astype(np.float32)
    clusters = cluster(x, 3, iterations=1000, restarts=1)
    far = ((x[:, None].astype(np.float64) - clusters.centroids) ** 2).sum(2)
    assert (far.argmin(1) != clusters.labels).mean() < 0.001
    check(x, clusters)


def test_one_cluster_is_the_mean() -> None:
    x = DATA["noise"]
    clusters = cluster(x, 1)
    np.testing.assert_allclose(clusters.centroids[0], x.mean(0, dtype=np.float64), atol=1e-6)
    assert clusters.sse[0] == pytest.approx(((x - x.mean(0)) ** 2).sum(), rel=1e-5)


def test_one_point_is_its_own_prototype() -> None:
    clusters = cluster(np.array([[1.0, 2.0, 3.0]], np.float32), 5)
    assert clusters.centroids.tolist() == [[1.0, 2.0, 3.0]] and clusters.size.tolist() == [1]
    assert clusters.sse.tolist() == [0.0] and clusters.medoid.tolist() == [0] and clusters.labels.tolist() == [0]


@pytest.mark.parametrize("k", [1, 3, 4, 10])
def test_there_are_no_more_clusters_than_distinct_points(k: int) -> None:
    x = np.repeat(np.array([[0, 0], [1, 0], [0, 9]], np.float32), [5, 3, 2], axis=0)
    clusters = cluster(x, k)
    check(x, clusters)
    assert len(clusters.size) == min(k, 3)
    if k >= 3:
        assert clusters.centroids.tolist() == [[0, 0], [1, 0], [0, 9]] and clusters.size.tolist() == [5, 3, 2]
        assert clusters.sse.sum() == 0


def test_as_many_clusters_as_points_leave_no_error() -> None:
    x = DATA["noise"][:20]
    clusters = cluster(x, 20)
    assert clusters.size.tolist() == [1] * 20 and clusters.sse.sum() == 0 and sorted(clusters.medoid) == list(range(20))
    check(x, clusters)


@pytest.mark.parametrize(("points", "k"), [(0, 1), (5, 0)])
def test_nothing_cannot_be_clustered(points: int, k: int) -> None:
    with pytest.raises(ValueError, match=f"cannot make {k} clusters of {points} points"):
        cluster(np.zeros((points, 2), np.float32), k)


def same(a: Clusters, b: Clusters) -> bool:
    return all(np.array_equal(getattr(a, f), getattr(b, f)) for f in ("centroids", "labels", "size", "sse", "medoid"))


def test_it_is_a_function_of_its_arguments() -> None:
    x = DATA["one digit"]
    assert same(cluster(x, 10), cluster(x.copy(), 10))
    np.random.seed(5)
    before = cluster(x, 10)
    np.random.seed(6)
    assert same(before, cluster(x, 10)), "the global generator plays no part"


def test_memory_layout_and_origin_play_no_part() -> None:
    """Latents come from float16 files; strided or read-only arrays hold the same numbers."""
    half = DATA["one digit"].astype(np.float16)
    x = half.astype(np.float32)
    wide = np.zeros((len(x), 2 * x.shape[1]), np.float32)
    wide[:, ::2] = x
    frozen = x.copy()
    frozen.flags.writeable = False
    assert all(same(cluster(x, 5), cluster(other, 5)) for other in (half, wide[:, ::2], np.asfortranarray(x), frozen))
    assert not x.flags.writeable or np.array_equal(x, half.astype(np.float32)), "the input is left as it was"


def test_the_key_picks_the_starts() -> None:
    x = DATA["noise"]
    assert not same(cluster(x, 20), cluster(x, 20, (1, "n01440764")))
    assert not same(cluster(x, 20), cluster(x, 20, (0, "n02102040")))


def test_more_restarts_are_never_worse() -> None:
    x = DATA["overlapping blobs"]
    sse = [cluster(x, 12, restarts=r).sse.sum() for r in (1, 2, 4, 8)]
    assert sse == sorted(sse, reverse=True)


def test_a_shifted_class_has_shifted_prototypes() -> None:
    x, _ = blobs(50 * np.eye(4), [9, 8, 7, 6], 1.0)
    here, there = cluster(x, 4), cluster(x + 16, 4)
    assert np.array_equal(here.labels, there.labels)
    np.testing.assert_allclose(there.centroids, here.centroids + 16, rtol=1e-4, atol=1e-3)


grids = st.lists(st.tuples(st.integers(-4, 4), st.integers(-4, 4)), min_size=1, max_size=30)


@settings(max_examples=40)
@given(grids, st.integers(1, 12), st.integers(0, 3))
def test_any_points_are_partitioned(points: list[tuple[int, int]], k: int, seed: int) -> None:
    x = np.array(points, np.float32)
    clusters = cluster(x, k, (seed,), restarts=1)
    check(x, clusters)
    assert 1 <= len(clusters.size) <= min(k, len(set(points)))
    mean = ((x - x.mean(0)) ** 2).sum()
    assert clusters.sse.sum() <= mean + 1e-3, "no worse than one cluster"


@settings(max_examples=25)
@given(grids, st.randoms(use_true_random=False))
def test_every_distinct_point_gets_its_cluster_if_there_are_enough(points: list[tuple[int, int]], random) -> None:
    random.shuffle(points)
    x = np.array(points, np.float32)
    clusters = cluster(x, len(set(points)), restarts=2)
    assert {tuple(c) for c in clusters.centroids.astype(int)} == set(points) and clusters.sse.sum() == 0
