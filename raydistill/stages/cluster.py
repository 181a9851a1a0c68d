"""cluster: the latents of each class -> its prototypes. A task takes a bucket: a class costs a tenth of a second."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from raydistill.clustering.kmeans import kmeans
from raydistill.config import ClusterConfig, Config, Pool
from raydistill.identity import fingerprint
from raydistill.sources.base import ClassInfo
from raydistill.stages.runner import Stage
from raydistill.store import schemas
from raydistill.store.artifact import Artifact, Manifest, Record
from raydistill.store.rundir import RunDir

VERSION = 1


@dataclass(frozen=True)
class ClusterWork:
    classes: Artifact
    artifact: Artifact
    config: ClusterConfig
    k: int
    seed: int
    class_ids: tuple[str, ...]

    def load(self, item: Record) -> Record:
        return item

    def open(self) -> Callable[[Record], Record]:
        return self.finish

    def finish(self, bucket: Record) -> Record:
        table = self.classes.read_table(bucket)
        parts, start = [], 0
        for index, count in zip(bucket.meta["classes"], bucket.meta["counts"], strict=True):
            parts.append(self._class(index, table.slice(start, count)))
            start += count
        return self.artifact.commit_table(
            bucket.key, pa.concat_tables(parts), device=bucket.device, meta={"classes": bucket.meta["classes"]}
        )

    def _class(self, index: int, table: pa.Table) -> pa.Table:
        z = schemas.tensor_numpy(table["latent"]).astype(np.float32)
        shape = z.shape[1:]
        found = kmeans(
            z.reshape(len(z), -1),
            self.k,
            self.config.iterations,
            self.config.restarts,
            (self.seed, self.class_ids[index]),
        )
        count = len(found.size)
        return pa.table(
            {
                "class_index": pa.array([index] * count, pa.int32()),
                "prototype_id": pa.array(range(count), pa.int32()),
                "size": pa.array(found.size, pa.int64()),
                "sse": pa.array(found.sse, pa.float64()),
                "medoid": table["image_id"].take(pa.array(found.medoid)),
                "centroid": schemas.tensor_array(found.centroids.reshape(count, *shape)),
            },
            schema=schemas.prototypes(shape),
        )


def stage(config: Config, run: RunDir, classes: Artifact, manifest: Manifest, infos: tuple[ClassInfo, ...]) -> Stage:
    """The cluster stage over the manifest of group: k-means with k = ipc."""
    c = config.cluster
    print_of = fingerprint(
        "cluster", VERSION, manifest.digest, "kmeans", config.ipc, config.seed, c.iterations, c.restarts
    )
    artifact = run.artifact("prototypes", print_of)
    work = ClusterWork(classes, artifact, c, config.ipc, config.seed, tuple(i.class_id for i in infos))
    records = {r.key: r for r in manifest.records}
    return Stage(
        "cluster",
        "classes",
        artifact,
        list(records),
        records.__getitem__,
        work,
        len(infos),
        "tasks",
        Pool(num_cpus=c.num_cpus),
        units=lambda r: len(r.meta["classes"]),
    )
