"""plan: which slots there are, what each is pulled to, which share a batch. Made whole, in the driver.

Batches are fixed here and mix classes, so that any number of actors in any order gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pyarrow as pa

from raydistill import registry
from raydistill.config import Config
from raydistill.declared import Aside, Keys, Spread
from raydistill.errors import BadInput, StageFailed
from raydistill.methods.base import ClassView, Method, Slot
from raydistill.methods.resolve import Variant
from raydistill.seeding import NoiseKey
from raydistill.sources.base import ClassInfo
from raydistill.stages.prototypes.selection import Offer, Prototypes, identity, offer
from raydistill.stages.runner import Stage
from raydistill.stages.work import StageWork
from raydistill.store import schemas
from raydistill.store.artifact import Artifact, Manifest, Record
from raydistill.store.rundir import RunDir


@dataclass(frozen=True)
class Features:
    """The artifact of embed with its manifest: what points are in the space of features."""

    artifact: Artifact
    manifest: Manifest


@dataclass(frozen=True)
class PlanWork(StageWork):
    name, folder = "plan", "plan"

    method_name: str
    manifest: Annotated[Manifest, Keys("digest")]  # group's
    prototypes: Annotated[Prototypes | None, lambda prototypes, _: [prototypes and prototypes.manifest.digest]]
    config: Annotated[Config, Keys("ipc", "seed", "sample.batch")]
    by_class: Annotated[bool, lambda by_class, _: ["by class"] * by_class]
    features: Annotated[Features | None, lambda features, _: [features.manifest.digest] if features else []]
    choice: Spread[list[object]]  # of prototypes among those that the clustering offers
    method: Annotated[Method, lambda method, _: method.options]
    code: Spread[list[Any]]  # registry.identity of the method
    classes: Aside[Artifact]
    infos: Aside[tuple[ClassInfo, ...]]
    shape: Aside[tuple[int, int, int]]

    def load(self, item: str) -> str:
        return item

    def open(self) -> Callable[[str], Record]:
        return self.finish

    def finish(self, key: str) -> Record:
        rows: list[tuple[int, int, Slot]] = []
        for bucket in self.manifest.records:
            for view, index in self._views(bucket):
                try:
                    slots = self.method.slots(view, self.config.ipc, self.config.seed)
                except BadInput as e:
                    raise StageFailed(str(e)) from None  # only known after broken images were set aside
                rows += [(j, index, slot) for j, slot in enumerate(slots)]
        # Slot first: a batch mixes classes. Where guidance looks at the latents of a class, class first: they are read
        # once for many slots.
        rows.sort(key=lambda r: (r[1], r[0]) if self.by_class else r[:2])
        zero = np.zeros(self.shape, np.float32)
        keys = [NoiseKey(self.config.seed, self.infos[i].class_id, j).text() for j, i, _ in rows]
        table = pa.table(
            {
                "class_index": pa.array([i for _, i, _ in rows], pa.int32()),
                "class_id": pa.array([self.infos[i].class_id for _, i, _ in rows]),
                "slot": pa.array([j for j, _, _ in rows], pa.int32()),
                "batch": pa.array([n // self.config.sample.batch for n in range(len(rows))], pa.int32()),
                "prototype_id": pa.array([s.prototype_id for _, _, s in rows], pa.int32()),
                "weight": pa.array([s.weight for _, _, s in rows], pa.float64()),
                "seed_key": pa.array(keys),
                "image_id": pa.array([s.image_id for _, _, s in rows]),
                "prototype": schemas.tensor_array(
                    np.stack([zero if s.prototype is None else s.prototype for _, _, s in rows])
                ),
            },
            schema=schemas.plan(self.shape),
        )
        return self.artifact.commit_table(key, table, device="driver")

    def _views(self, bucket: Record) -> Iterator[tuple[ClassView, int]]:
        """The classes of a bucket. Of latents and features, read if the method asks, one bucket is held at a time."""
        latents = self.method.uses_latents or (self.method.uses_points and self.features is None)
        by_medoid = self.prototypes is not None and self.config.hierarchy.representative == "medoid"
        columns = ["class_index", "image_id"] + ["latent"] * (latents or by_medoid)
        rows = self.classes.read_table(bucket, columns=columns)
        clusters = None if self.prototypes is None else self.prototypes.bucket(bucket.key)
        points = None
        if self.features is not None:
            record = next(r for r in self.features.manifest.records if r.key == bucket.key)
            points = schemas.tensor_numpy(self.features.artifact.read_table(record, columns=["feature"])["feature"])
        nothing = np.zeros((0, *self.shape), np.float16)
        start = 0
        for index, count in zip(bucket.meta["classes"], bucket.meta["counts"], strict=True):
            mine = rows.slice(start, count)
            features = None if points is None else points[start : start + count]
            start += count
            class_id, ids = self.infos[index].class_id, mine["image_id"]
            z = schemas.tensor_numpy(mine["latent"]) if "latent" in columns else nothing
            given = Offer(nothing.astype(np.float32), np.zeros(0, np.int64), [])
            if clusters is not None:
                given = offer(clusters, index, class_id, ids, z, self.config)
            view = ClassView(
                class_id,
                ids.to_pylist(),
                given.centroids,
                given.sizes,
                given.medoids,
                z if latents else nothing,
                features,
                given.tree,
            )
            yield view, index


def stage(
    v: Variant,
    run: RunDir,
    classes: Artifact,
    manifest: Manifest,
    prototypes: Prototypes | None,
    infos: tuple[ClassInfo, ...],
    shape: tuple[int, int, int],
    features: Features | None = None,
) -> Stage:
    """The plan of one method at one IPC and seed. `features` are given if the method chooses by them."""
    config = v.config
    work = PlanWork(
        config.method,
        manifest,
        prototypes,
        config,
        v.sampling is not None and bool(v.sampling.context),
        features,
        identity(config) if prototypes else [],
        v.method,
        registry.identity("method", config.method),
        classes,
        infos,
        shape,
    ).within(run)
    return Stage("plan", "slots", work.artifact, ["plan"], lambda k: k, work, len(infos) * config.ipc, "driver")
