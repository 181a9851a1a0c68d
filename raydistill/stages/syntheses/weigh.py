"""weigh: what the images of a set weigh in the loss, once they are there: nothing is sampled or labelled anew for it.

Masses are those of the prototypes that the plan gave to the slots. Made whole, in the driver.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import pyarrow as pa

from raydistill.config import Config
from raydistill.declared import Aside, Keys, Since
from raydistill.errors import StageFailed
from raydistill.methods.weighting import MODES, sample_size_a_class, shared, weigh
from raydistill.stages.prototypes.selection import chosen
from raydistill.stages.runner import Stage
from raydistill.stages.work import StageWork
from raydistill.store import schemas
from raydistill.store.artifact import Record
from raydistill.store.rundir import RunDir
from raydistill.store.sealed import Sealed

KEY = "weights"


@dataclass(frozen=True)
class WeighWork(StageWork):
    name, folder = "weigh", "weights"

    slots: Sealed  # plan's; of images that nobody planned, the images themselves
    prototypes: Sealed | None
    config: Annotated[Config, Keys("weights.mode", "weights.norm")]
    classes: Aside[Sealed]  # group's, which the prototypes are of
    gamma: Annotated[float | None, Since(None)]

    def load(self, item: str) -> str:
        return item

    def open(self) -> Callable[[str], Record]:
        return self.finish

    def finish(self, key: str) -> Record:
        slots, parts = self.weights()
        weights, label = np.concatenate(parts), slots["class_index"].to_numpy()
        table = slots.select(schemas.PLACE).append_column("weight", pa.array(weights))
        meta = {
            "effective_sample_size": sample_size_a_class(weights, label),
            "as_before": bool(np.array_equal(weights, slots["weight"].to_numpy())),
        }
        return self.artifact.commit_table(key, table.cast(schemas.weights()), device="driver", meta=meta)

    def weights(self) -> tuple[pa.Table, list[np.ndarray]]:
        """The slots in order, and of each class their weights, which ask for no image.

        Raises StageFailed for a slot without a mass, as a clustering of one's own may leave it.
        """
        slots = self.slots.read([*schemas.PLACE, "prototype_id", "weight", *(["class_id"] if self.prototypes else [])])
        slots = slots.sort_by([(name, "ascending") for name in schemas.PLACE])
        label, masses = slots["class_index"].to_numpy(), np.ones(len(slots))
        for rows, sizes in self._sizes(slots, label):
            masses[rows] = shared(sizes, slots["prototype_id"].to_numpy()[rows])
        classes = [np.flatnonzero(label == index) for index in np.unique(label)]
        return slots, [self._class(slots, rows, masses[rows]) for rows in classes]

    def _class(self, slots: pa.Table, rows: np.ndarray, masses: np.ndarray) -> np.ndarray:
        try:
            return weigh(masses, self.config.weights.mode or "", self.config.weights.norm, self.gamma)
        except ValueError as e:
            class_id = slots["class_id"][int(rows[0])].as_py()  # only masses of prototypes can be wrong
            raise StageFailed(
                f"weigh: class {class_id!r}: {e}; choose weights.mode=uniform or mend the clustering"
            ) from None

    def _sizes(self, slots: pa.Table, label: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Of each class the rows of its slots, and how many images each prototype that was offered to them has."""
        if self.prototypes is None:
            return
        for bucket in self.classes.records:
            clusters, start = self.prototypes.table(bucket.key), 0
            ids = self.classes.table(bucket.key, ["image_id"])["image_id"]
            for index, count in zip(bucket.meta["classes"], bucket.meta["counts"], strict=True):
                rows = np.flatnonzero(label == index)
                class_id = slots["class_id"][int(rows[0])].as_py()
                offered, _ = chosen(clusters, index, class_id, ids.slice(start, count), self.config)
                start += count
                of = slots["prototype_id"].to_numpy()[rows]
                if of.min() < 0 or of.max() >= len(offered):
                    raise StageFailed(
                        f"weigh: class {class_id!r} has slots without a prototype, so without a mass; choose "
                        "weights.mode=uniform"
                    )
                yield rows, offered["size"].to_numpy()


def stage(config: Config, run: RunDir, slots: Sealed, prototypes: Sealed | None, classes: Sealed) -> Stage:
    """The weights of the slots of a plan (or of imported images), by the resolved `config.weights`."""
    masses = MODES[config.weights.mode or ""].needs_masses
    work = WeighWork(slots, prototypes if masses else None, config, classes, config.weights.gamma).within(run)
    total = slots.manifest.rows
    return Stage(
        "weigh",
        "images",
        work.artifact,
        [KEY],
        lambda k: k,
        work,
        total,
        "driver",
        summarise=lambda records: records[0].meta,
    )


def check(stage: Stage) -> None:
    """Raises as `WeighWork.weights` does; commits nothing."""
    assert isinstance(stage.work, WeighWork)
    stage.work.weights()
