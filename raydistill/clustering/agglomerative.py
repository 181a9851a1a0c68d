"""Bottom-up clusters of a class: the two nearest clusters are merged until k are left (scikit-learn's)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from sklearn.cluster import AgglomerativeClustering

from raydistill.clustering.base import Clustering, Clusters, of_labels
from raydistill.clustering.points import Points, Whole, distinct, one_thread
from raydistill.errors import BadInput
from raydistill.registry import register

Linkage = Literal["ward", "average", "complete", "single"]
MOST = 16_384  # points whose distances to each other, 1 GiB, are held


@register("clustering", "agglomerative")
@dataclass(frozen=True)
class Agglomerative(Clustering):
    """A class's points in memory, whatever their number up to MOST."""

    summary = "IPC clusters, merged bottom-up"
    ipc: int
    linkage: Linkage

    def cluster(self, points: Points, class_id: str) -> Clusters:
        return agglomerative(points.read(), self.ipc, self.linkage)


def agglomerative(x: np.ndarray, k: int, linkage: Linkage = "ward") -> Clusters:
    """Clusters x (N, D) into min(k, distinct points) clusters, largest first (ties by centroid).

    Distances are Euclidean; ward merges what adds least to the SSE. No randomness. Raises ValueError for no points,
    BadInput for more than MOST, whose distances to each other no task holds.
    """
    if len(x) == 0 or k < 1:
        raise ValueError(f"cannot make {k} clusters of {len(x)} points")
    if len(x) > MOST:
        raise BadInput(
            f"agglomerative clustering holds the distances of all pairs, and {len(x)} points are more than {MOST}; "
            "use cluster.algorithm=divisive or kmeans"
        )
    x = np.ascontiguousarray(x, np.float32)
    rows, _ = distinct(Whole(x))
    k = min(k, len(rows))
    labels = np.zeros(len(x), np.int64)
    if k > 1:
        with one_thread():
            labels = AgglomerativeClustering(n_clusters=k, linkage=linkage).fit_predict(x)
    return of_labels(x, labels, k)
