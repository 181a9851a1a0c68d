"""Bottom-up clusters of a class: the two nearest clusters are merged until k are left (scikit-learn's)."""

from __future__ import annotations

from typing import Literal

import numpy as np
from sklearn.cluster import AgglomerativeClustering

from raydistill.clustering.kmeans import Clusters, of_labels
from raydistill.clustering.points import Whole, distinct, one_thread
from raydistill.errors import BadInput

Linkage = Literal["ward", "average", "complete", "single"]
MOST = 16_384  # points whose distances to each other, 1 GiB, are held


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
