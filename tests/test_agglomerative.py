"""Bottom-up clusters: each linkage where the answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from raydistill.clustering import agglomerative as module
from raydistill.clustering.agglomerative import agglomerative
from raydistill.errors import BadInput

LINKAGES = pytest.mark.parametrize("linkage", ["ward", "average", "complete", "single"])


def line(*values: float) -> np.ndarray:
    return np.array(values, np.float32)[:, None]


@LINKAGES
def test_separated_blobs_are_the_clusters(linkage: module.Linkage) -> None:
    rng = np.random.default_rng(0)
    truth = rng.permutation(np.repeat([0, 1, 2], [30, 20, 10]))
    x = (100 * np.eye(3, 5)[truth] + rng.standard_normal((60, 5))).astype(np.float16)
    clusters = agglomerative(x, 3, linkage)
    assert np.array_equal(clusters.labels, truth) and clusters.size.tolist() == [30, 20, 10]
    for j in range(3):
        np.testing.assert_allclose(clusters.centroids[j], x[truth == j].mean(0, dtype=np.float64), rtol=1e-6)
        assert truth[clusters.medoid[j]] == j


@pytest.mark.parametrize(
    ("linkage", "merged"), [("single", (4, 1)), ("complete", (3, 2)), ("average", (3, 2)), ("ward", (3, 2))]
)
def test_only_single_linkage_follows_a_chain(linkage: module.Linkage, merged: tuple[int, int]) -> None:
    """0 2 4.1 6.3 | 9: the last gap is the widest, but the chain as a whole is wider."""
    assert tuple(agglomerative(line(0, 2, 4.1, 6.3, 9), 2, linkage).size) == merged


@LINKAGES
def test_equal_points_are_one(linkage: module.Linkage) -> None:
    clusters = agglomerative(np.repeat(line(0, 1, 9), [5, 3, 2], axis=0), 7, linkage)
    assert (
        clusters.size.tolist() == [5, 3, 2]
        and clusters.centroids.ravel().tolist() == [0, 1, 9]
        and not clusters.sse.any()
    )
    assert agglomerative(line(4), 3, linkage).size.tolist() == [1]


def test_what_cannot_be_done_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="cannot make 1 clusters of 0 points"):
        agglomerative(line()[:0], 1)
    monkeypatch.setattr(module, "MOST", 3)
    with pytest.raises(BadInput, match=r"4 points are more than 3; use cluster.algorithm=divisive or kmeans"):
        agglomerative(line(1, 2, 3, 4), 2)
