"""The candidates for a class's slots: its clusters as they are, or the nodes that are selected from its tree."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from raydistill import registry
from raydistill.clustering.hierarchy import select
from raydistill.clustering.tree import Tree
from raydistill.config import Config
from raydistill.errors import BadInput, StageFailed
from raydistill.store import schemas


@dataclass(frozen=True)
class Candidates:
    """Prototypes of a class in the order of the slots: centroids (K, C, h, w), sizes (K,), medoids (K,), the tree."""

    centroids: np.ndarray
    sizes: np.ndarray
    medoids: list[str]
    tree: Tree | None = None

    def take(self, rows: np.ndarray) -> Candidates:
        """Some of them, in the order of `rows`."""
        medoids = [self.medoids[row] for row in rows]
        return replace(self, centroids=self.centroids[rows], sizes=self.sizes[rows], medoids=medoids)


def untaken(centroids: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """Rows (L,) of centroids (K, ...) that are left where each of taken (T, ...) has the place of one: the pairs with
    the least sum of squared distances. Equal ones of `taken` count once; all K where none would be left.
    """
    points, before = (x.reshape(len(x), -1).astype(np.float64) for x in (centroids, np.unique(taken, axis=0)))
    left = np.ones(len(points), bool)
    left[linear_sum_assignment(cdist(before, points, "sqeuclidean"))[1]] = False
    return np.flatnonzero(left) if left.any() else np.arange(len(points))


def class_candidates(
    clusters: pa.Table, index: int, class_id: str, ids: pa.ChunkedArray, latents: np.ndarray, config: Config
) -> Candidates:
    """What a bucket's clusters hold for class `index`, whose image ids and latents (N, C, h, w) these are.

    Latents are needed for medoids only. Raises StageFailed if its tree cannot serve.
    """
    mine, tree = chosen(clusters, index, class_id, ids, config)
    centroids = schemas.tensor_numpy(mine["centroid"])
    if config.hierarchy.representative == "medoid":
        centroids = latents[_rows(mine["medoid"], ids)].astype(np.float32)
    return Candidates(centroids, mine["size"].to_numpy(), mine["medoid"].to_pylist(), tree)


def chosen(
    clusters: pa.Table, index: int, class_id: str, ids: pa.ChunkedArray, config: Config
) -> tuple[pa.Table, Tree | None]:
    """The rows of class `index` in the order of the slots, and its tree if it has one. Raises as `offer` does."""
    mine = clusters.filter(pc.equal(clusters["class_index"], index))
    if "node" not in mine.column_names:
        return mine, None
    tree = read_tree(mine, ids)
    return mine.take(pa.array(_nodes(tree, class_id, config))), tree


def identity(config: Config) -> list[object]:
    """What the choice of prototypes depends on, beyond the clustering."""
    h = config.hierarchy.model_dump()
    representative = h.pop("representative")
    return [
        *([h] if registry.get("clustering", config.cluster.algorithm or "kmeans").makes == "tree" else []),
        *([representative] * (representative == "medoid")),
    ]


def _nodes(tree: Tree, class_id: str, config: Config) -> np.ndarray:
    h = config.hierarchy
    try:
        return select(tree, config.ipc, h.selection, h.start_level, h.walk, h.factor, (config.seed, class_id))
    except BadInput as e:
        raise StageFailed(f"class {class_id!r}: {e}") from None


def read_tree(nodes: pa.Table, ids: pa.ChunkedArray) -> Tree:
    """The tree of one class from its rows of the artifact and its image ids."""
    members = nodes["members"].combine_chunks()
    leaf = np.empty(len(ids), np.int32)
    leaf[members.flatten().to_numpy()] = np.repeat(np.arange(len(nodes)), members.value_lengths().to_numpy())
    centroids = schemas.tensor_numpy(nodes["centroid"])
    return Tree(
        nodes["parent"].to_numpy(),
        nodes["split"].to_numpy(),
        nodes["size"].to_numpy(),
        nodes["sse"].to_numpy(),
        _rows(nodes["medoid"], ids),
        centroids.reshape(len(nodes), -1),
        leaf,
    )


def _rows(wanted: pa.ChunkedArray, ids: pa.ChunkedArray) -> np.ndarray:
    return pc.index_in(wanted, value_set=ids.combine_chunks()).to_numpy().astype(np.int64)
