"""cluster: the latents of each class -> its prototypes, or its tree of them.

A task takes a bucket and reads it a class at a time: a class costs a tenth of a second to a second. A class that is
larger than a task's memory stays in its file, and tasks of its own work on pieces of it (spread.py); the bytes are the
same either way, and the same for every `cluster.memory_mb`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pyarrow as pa

from raydistill import registry
from raydistill.clustering.base import Clustering, Clusters
from raydistill.clustering.points import Points, Whole
from raydistill.clustering.tree import Tree
from raydistill.config import Config, Pool
from raydistill.declared import Aside, Spread
from raydistill.errors import BadInput, StageFailed
from raydistill.sources.base import ClassInfo
from raydistill.stages.latents.group import PART
from raydistill.stages.prototypes.pieces import Piece, PointsInFile
from raydistill.stages.runner import Stage
from raydistill.stages.work import StageWork
from raydistill.store import schemas
from raydistill.store.artifact import Record
from raydistill.store.rundir import RunDir
from raydistill.store.sealed import Sealed


@dataclass(frozen=True)
class ClusterWork(StageWork):
    """Its version is that of the tables; a clustering has its own."""

    name, folder = "cluster", "prototypes"

    classes: Sealed
    algorithm: str
    clustering: Annotated[Clustering, lambda clustering, _: clustering.values()]
    chunks: Spread[list[str]]  # ["in chunks"] if the largest class is beyond what the clustering takes whole
    code: Spread[list[Any]]  # registry.identity of the clustering
    class_ids: Aside[tuple[str, ...]]
    budget: Aside[int]  # bytes of float16 latents that a task may hold; changes who computes, not what
    num_cpus: Aside[float]

    def load(self, item: Record) -> Record:
        return item

    def open(self) -> Callable[[Record], Record]:
        return self.finish

    def finish(self, bucket: Record) -> Record:
        self.classes.artifact.verify_once(bucket)
        first = self.classes.artifact.read_rows(bucket, 0, 1, ["latent"])
        shape = schemas.tensor_numpy(first["latent"]).shape[1:]
        parts, start, chunked, seen = [], 0, [], {}
        for index, count in zip(bucket.meta["classes"], bucket.meta["counts"], strict=True):
            table, of_stream = self._class(index, Piece(self.classes.artifact, bucket, start, count), shape)
            parts.append(table)
            if of_stream is not None:
                seen[str(index)] = of_stream.tolist()
            start += count
            if self.clustering.by_chunks(count, int(np.prod(shape))):
                chunked.append(index)
        # Only classes above the border are told: the records of others stay what they always were.
        border = {"by_chunks": {"above": self.clustering.in_memory, "classes": chunked}} if chunked else {}
        meta = {"classes": bucket.meta["classes"], **border, **({"seen": seen} if seen else {})}
        return self.artifact.commit_table(bucket.key, pa.concat_tables(parts), device=bucket.device, meta=meta)

    def _class(self, index: int, piece: Piece, shape: tuple[int, ...]) -> tuple[pa.Table, np.ndarray | None]:
        """The rows of a class and, if its clustering sees points one after the other, what its stream gave each."""
        ids = piece.artifact.read_rows(piece.bucket, piece.start, piece.start + piece.count, ["image_id"])["image_id"]
        try:
            clusters = self.clustering.cluster(self._points(piece, int(np.prod(shape))), self.class_ids[index])
        except BadInput as e:
            raise StageFailed(f"cluster: class {self.class_ids[index]!r}: {e}") from None
        if isinstance(clusters, Tree):
            return tree_table(index, clusters, ids, shape), None
        return prototype_table(index, clusters, ids, shape), clusters.seen

    def _points(self, piece: Piece, dim: int) -> Points:
        if 2 * piece.count * dim <= self.budget:
            return Whole(piece.read())
        return PointsInFile(piece, dim, max(1, self.budget // (2 * dim * PART)) * PART, self.num_cpus)


def prototype_table(index: int, clusters: Clusters, ids: pa.ChunkedArray, shape: tuple[int, ...]) -> pa.Table:
    count = len(clusters.size)
    return pa.table(
        {
            "class_index": pa.array([index] * count, pa.int32()),
            "prototype_id": pa.array(range(count), pa.int32()),
            "size": pa.array(clusters.size, pa.int64()),
            "sse": pa.array(clusters.sse, pa.float64()),
            "medoid": ids.take(pa.array(clusters.medoid)),
            "centroid": schemas.tensor_array(clusters.centroids.reshape(count, *shape)),
        },
        schema=schemas.prototypes(shape),
    )


def tree_table(index: int, tree: Tree, ids: pa.ChunkedArray, shape: tuple[int, ...]) -> pa.Table:
    count = len(tree)
    order = np.argsort(tree.leaf, kind="stable").astype(np.int32)
    held = np.bincount(tree.leaf, minlength=count)
    offsets = np.concatenate([[0], np.cumsum(held)]).astype(np.int32)
    return pa.table(
        {
            "class_index": pa.array([index] * count, pa.int32()),
            "node": pa.array(range(count), pa.int32()),
            "parent": pa.array(tree.parent),
            "level": pa.array(tree.level),
            "born": pa.array(tree.born),
            "split": pa.array(tree.split),
            "size": pa.array(tree.size),
            "sse": pa.array(tree.sse),
            "medoid": ids.take(pa.array(tree.medoid)),
            "members": pa.ListArray.from_arrays(pa.array(offsets), pa.array(order)),
            "centroid": schemas.tensor_array(tree.centroid.reshape(count, *shape)),
        },
        schema=schemas.trees(shape),
    )


def stage(
    config: Config,
    run: RunDir,
    classes: Sealed,
    infos: tuple[ClassInfo, ...],
    shape: tuple[int, int, int],
) -> Stage:
    """One clustering of what group has made: `cluster.algorithm`, k-means if that is left open."""
    c = config.cluster
    name = c.algorithm or "kmeans"
    clustering = registry.get("clustering", name).of(config)
    largest = max(max(r.meta["counts"]) for r in classes.records)
    work = ClusterWork(
        classes,
        name,
        clustering,
        ["in chunks"] if clustering.by_chunks(largest, int(np.prod(shape))) else [],
        registry.identity("clustering", name),
        tuple(i.class_id for i in infos),
        c.memory_mb * 2**20 // 4,  # a file is read and decoded; chunks and their sums take as much again
        c.num_cpus,
    ).within(run)
    records = {r.key: r for r in classes.records}
    return Stage(
        "cluster",
        "classes",
        work.artifact,
        list(records),
        records.__getitem__,
        work,
        len(infos),
        "tasks",
        Pool(num_cpus=c.num_cpus, deadline_s=c.deadline_s),
        units=lambda r: len(r.meta["classes"]),
    )
