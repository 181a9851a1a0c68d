"""plan: which slots there are, what each is pulled to, which share a batch. Made whole, in the driver.

Batches are fixed here and mix classes, so that any number of actors in any order gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raydistill import registry
from raydistill.config import Config
from raydistill.declared import Aside, Keys, Since, Spread
from raydistill.errors import BadInput, StageFailed
from raydistill.methods.base import ClassView, Method, Slot
from raydistill.methods.resolve import Variant
from raydistill.seeding import NoiseKey
from raydistill.sources.base import ClassInfo
from raydistill.sources.weights import LARGEST
from raydistill.stages.prototypes.selection import Candidates, class_candidates, identity, untaken
from raydistill.stages.runner import Stage
from raydistill.stages.work import StageWork
from raydistill.store import schemas
from raydistill.store.artifact import Record
from raydistill.store.rundir import RunDir
from raydistill.store.sealed import Sealed


@dataclass(frozen=True)
class PlanWork(StageWork):
    name, folder = "plan", "plan"

    method_name: str
    classes: Sealed
    prototypes: Sealed | None
    config: Annotated[Config, Keys("ipc", "seed", "sample.batch")]
    by_class: Annotated[bool, lambda by_class, _: ["by class"] * by_class]
    features: Annotated[Sealed | None, Since(None)]
    choice: Spread[list[object]]  # of prototypes among those that the clustering offers
    method: Annotated[Method, lambda method, _: method.options]
    code: Spread[list[Any]]  # registry.identity of the method
    infos: Aside[tuple[ClassInfo, ...]]
    shape: Aside[tuple[int, int, int]]
    increment: Annotated[int, lambda increment, _: [{"increment": increment}] if increment else []]
    taken: Annotated[tuple[Sealed, ...], lambda taken, _: [plan.digest for plan in taken]]  # plans before it

    def load(self, item: str) -> str:
        return item

    def open(self) -> Callable[[str], Record]:
        return self.finish

    def finish(self, key: str) -> Record:
        rows: list[tuple[int, NoiseKey, Slot]] = []
        for bucket in self.classes.records:
            for view, ids, index in self._views(bucket):
                try:
                    slots = self.method.slots(view, self.config.ipc, self.config.seed)
                except BadInput as e:
                    raise StageFailed(str(e)) from None  # only known after broken images were set aside
                check_weights(slots, f"plan: method {self.method_name}: class {view.class_id!r}")
                keys = view.keys(len(slots), self.config.seed)
                numbered = (
                    slot
                    if ids is None or slot.prototype_id < 0  # of none
                    else replace(slot, prototype_id=int(ids[slot.prototype_id]))
                    for slot in slots
                )
                rows += [(index, noise, slot) for noise, slot in zip(keys, numbered, strict=True)]
        # Slot first: a batch mixes classes. Where guidance looks at the latents of a class, class first: they are read
        # once for many slots.
        rows.sort(key=lambda r: (r[0], r[1].slot) if self.by_class else (r[1].slot, r[0]))
        zero = np.zeros(self.shape, np.float32)
        labels, drawn, planned = zip(*rows, strict=True)
        table = pa.table(
            {
                "class_index": pa.array(labels, pa.int32()),
                "class_id": pa.array([k.class_id for k in drawn]),
                "slot": pa.array([k.slot for k in drawn], pa.int32()),
                "batch": pa.array([n // self.config.sample.batch for n in range(len(rows))], pa.int32()),
                "prototype_id": pa.array([s.prototype_id for s in planned], pa.int32()),
                "weight": pa.array([s.weight for s in planned], pa.float64()),
                "seed_key": pa.array([k.text() for k in drawn]),
                "image_id": pa.array([s.image_id for s in planned]),
                "prototype": schemas.tensor_array(
                    np.stack([zero if s.prototype is None else s.prototype for s in planned])
                ),
            },
            schema=schemas.plan(self.shape),
        )
        del rows, planned  # their prototypes are in the table now, 16 kB a slot at 256 px
        return self.artifact.commit_table(key, table, device="driver")

    def _views(self, bucket: Record) -> Iterator[tuple[ClassView, np.ndarray | None, int]]:
        """The classes of a bucket, with their prototypes' ids where these are not simply counted, and their index.

        Of latents and features, read if the method asks, one bucket is held at a time.
        """
        latents = self.method.uses_latents or (self.method.uses_points and self.features is None)
        by_medoid = self.prototypes is not None and self.config.hierarchy.representative == "medoid"
        columns = ["class_index", "image_id"] + ["latent"] * (latents or by_medoid)
        rows = self.classes.table(bucket.key, columns)
        clusters = None if self.prototypes is None else self.prototypes.table(bucket.key)
        points = None
        if self.features is not None:
            points = schemas.tensor_numpy(self.features.table(bucket.key, ["feature"])["feature"])
        nothing = np.zeros((0, *self.shape), np.float16)
        start = 0
        for index, count in zip(bucket.meta["classes"], bucket.meta["counts"], strict=True):
            mine = rows.slice(start, count)
            features = None if points is None else points[start : start + count]
            start += count
            class_id, ids = self.infos[index].class_id, mine["image_id"]
            z = schemas.tensor_numpy(mine["latent"]) if "latent" in columns else nothing
            candidates = Candidates(nothing.astype(np.float32), np.zeros(0, np.int64), [])
            if clusters is not None:
                candidates = class_candidates(clusters, index, class_id, ids, z, self._offered)
            new = None
            if self.taken:
                new = untaken(candidates.centroids, self._taken(index))
                candidates = candidates.take(new)
            view = ClassView(
                class_id,
                ids.to_pylist(),
                candidates.centroids,
                candidates.sizes,
                candidates.medoids,
                z if latents else nothing,
                features,
                candidates.tree,
                self.increment,
            )
            yield view, new, index

    @property
    def _offered(self) -> Config:
        """The configuration by which so many prototypes are offered as the plans before and this one have slots."""
        return self.config.model_copy(update={"ipc": (len(self.taken) + 1) * self.config.ipc})

    @cached_property
    def _before(self) -> pa.Table:
        columns = ["class_index", "prototype_id", "prototype"]
        table = pa.concat_tables([plan.read(columns) for plan in self.taken])
        return table.filter(pc.greater_equal(table["prototype_id"], 0))

    def _taken(self, index: int) -> np.ndarray:
        """The prototypes (T, C, h, w) that plans before have given to slots of a class."""
        return schemas.tensor_numpy(self._before.filter(pc.equal(self._before["class_index"], index))["prototype"])


def check_weights(slots: Sequence[Slot], of: str) -> None:
    """Raises StageFailed, which begins with `of`, for weights of the slots of a class that no loss can take."""
    for number, weight in enumerate(slot.weight for slot in slots):
        if not 0 <= weight <= LARGEST:
            raise StageFailed(f"{of}: slot {number} has weight {weight:g}; weights are numbers from 0 to {LARGEST:.3g}")
    if slots and not any(slot.weight for slot in slots):
        raise StageFailed(f"{of}: all weights are 0, and nothing can be learned from that")


def stage(
    v: Variant,
    run: RunDir,
    classes: Sealed,
    prototypes: Sealed | None,
    infos: tuple[ClassInfo, ...],
    shape: tuple[int, int, int],
    features: Sealed | None = None,
    increment: int = 0,
    taken: tuple[Sealed, ...] = (),
) -> Stage:
    """The plan of one method at one IPC and seed. `features` are given if the method chooses by them.

    Another `increment` has other noise. What a slot's noise is drawn of stands in its `seed_key`, which sample reads.
    Of `prototypes`, one a slot of this plan and of those in `taken`, it has those that these have not.
    """
    config = v.config
    work = PlanWork(
        config.method,
        classes,
        prototypes,
        config,
        v.sampling is not None and bool(v.sampling.context),
        features,
        identity(config) if prototypes else [],
        v.method,
        registry.identity("method", config.method),
        infos,
        shape,
        increment,
        taken,
    ).within(run)
    return Stage("plan", "slots", work.artifact, ["plan"], lambda k: k, work, len(infos) * config.ipc, "driver")
