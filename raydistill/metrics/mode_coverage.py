"""Mode coverage: how many of the modes of a class have a synthetic image (our reading of PGFM, arXiv 2602.05616).

The paper's own definition is not known; its 78 % cannot be compared with these values.
"""

from __future__ import annotations

import numpy as np

from raydistill.clustering.kmeans import kmeans
from raydistill.metrics.base import Metric, Value
from raydistill.metrics.memory import Rows
from raydistill.metrics.sets import by_class, pair_distances, squared_distances
from raydistill.registry import register


@register("metric", "mode_coverage")
class ModeCoverage(Metric):
    """Covered / all modes of a class, mean over the classes that have real images. Modes: k-means on the real images.

    A mode is covered if it is the nearest one of a synthetic image of its class that lies within the 90th percentile of
    its own members' distances; `..._nearest` drops that last condition. `_ipc`: as many modes as the class has
    synthetic images; `_50`: always fifty. A class without a synthetic image covers nothing.
    """

    version = 2
    name = "mode_coverage"
    space = "both"
    summary = "share of the k-means modes of each class that have a synthetic image"
    values = tuple(
        Value(f"mode_coverage_{modes}{test}", "higher", 1.0) for modes in ("ipc", "50") for test in ("", "_nearest")
    )
    modes = 50
    percentile = 90
    iterations = 50
    restarts = 1
    limit = 1300  # real rows of a class that are kept: every one of an ImageNet class
    real: Rows
    synthetic: Rows

    def sides(self) -> tuple[Rows, Rows]:
        return Rows(self.seed, self.limit, by_class=True), Rows(self.seed)

    def evaluate(self) -> dict[str, float | None]:
        x, yx, _ = self.real.get()
        z, yz, _ = self.synthetic.weighing()
        shares: dict[str, list[float]] = {value.name: [] for value in self.values}
        for c, (r, s) in enumerate(zip(by_class(yx, self.classes), by_class(yz, self.classes), strict=True)):
            if len(r):
                covered = {k: self._covered(x[r], z[s], k, c) if len(s) else (0.0, 0.0) for k in (len(s), self.modes)}
                for name, k in (("ipc", len(s)), ("50", self.modes)):
                    for test, share in zip(("", "_nearest"), covered[k], strict=True):
                        shares[f"mode_coverage_{name}{test}"].append(share)
        return {name: float(np.mean(per_class)) for name, per_class in shares.items()}

    def _covered(self, x: np.ndarray, z: np.ndarray, k: int, label: int) -> tuple[float, float]:
        """Shares of covered modes, with the radius and without."""
        centroids = kmeans(x, k, self.iterations, self.restarts, ("mode_coverage", self.seed, label, k)).centroids
        # The labels of k-means are those before the last update of its centroids. A mode without a member is none.
        alive, mode_of = np.unique(squared_distances(x, centroids).argmin(axis=1), return_inverse=True)
        centroids = centroids[alive]
        nearest = squared_distances(z, centroids).argmin(axis=1)
        distance, to_nearest = pair_distances(x, centroids[mode_of]), pair_distances(z, centroids[nearest])
        radius = np.array([np.percentile(distance[mode_of == mode], self.percentile) for mode in range(len(centroids))])
        inside = nearest[to_nearest <= radius[nearest]]
        return len(np.unique(inside)) / len(centroids), len(np.unique(nearest)) / len(centroids)
