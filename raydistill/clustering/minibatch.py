"""Mini-batch k-means as D4M has it (arXiv 2407.15138): scikit-learn's, fed by the stream of a class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.cluster import MiniBatchKMeans

from raydistill.clustering.base import Clustering, Clusters
from raydistill.clustering.points import Points
from raydistill.clustering.streams import EVEN, batches, quantise, stream
from raydistill.registry import register
from raydistill.seeding import generator


@register("clustering", "minibatch")
@dataclass(frozen=True)
class MiniBatch(Clustering):
    """`partial_fit` on `cluster.expand` x IPC points at a time, from k-means++ starts within the first of them.

    D4M's release loses what is left when a class ends; `cluster.drop_last` does so, too.
    """

    summary = "IPC clusters by scikit-learn's mini-batch k-means, as D4M has them"
    ipc: int
    seed: int
    expand: int
    drop_last: bool

    def more_even(self) -> str | None:
        return f"cluster.expand={EVEN}" if self.expand < EVEN else None

    def cluster(self, points: Points, class_id: str) -> Clusters:
        def learn(points: Points, start: np.ndarray) -> tuple[np.ndarray, None]:
            size = self.expand * self.ipc
            rng = int(generator("minibatch", self.seed, class_id).integers(2**31))
            solver = MiniBatchKMeans(n_clusters=len(start), n_init=1, random_state=rng)
            for number, x in enumerate(batches(stream(points), size)):
                if number == 0 or len(x) == size or not self.drop_last:
                    solver.partial_fit(x)
            return solver.cluster_centers_, None  # its counts are not public

        return quantise(points, self.ipc, learn, (self.seed, class_id))
