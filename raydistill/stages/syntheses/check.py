"""check: whether what was sampled is of the classes that it was made for, by the real means (metrics/own_class.py).

`means/` holds the mean latent of every class, computed once for all sets; `checks/` what was found of one set.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import pyarrow as pa

from raydistill.declared import Keys
from raydistill.identity import canonical
from raydistill.metrics.own_class import OwnClass, nearest_means, warning
from raydistill.progress import say
from raydistill.sources.base import ClassInfo
from raydistill.stages.latents.group import PART
from raydistill.stages.runner import Stage
from raydistill.stages.syntheses.distilled_set import DistilledSet
from raydistill.stages.work import StageWork
from raydistill.store import schemas
from raydistill.store.artifact import Record
from raydistill.store.rundir import RunDir
from raydistill.store.sealed import Sealed

KEY = "check"
IN_DRIVER = 50_000  # images of which the driver takes the means in seconds, without waking tasks


@dataclass(frozen=True)
class MeansWork(StageWork):
    name, folder = "means", "means"

    classes: Sealed

    def load(self, item: Record) -> Record:
        return item

    def open(self) -> Callable[[Record], Record]:
        return self.finish

    def finish(self, bucket: Record) -> Record:
        """PART latents of a class are held at a time."""
        self.classes.artifact.verify_once(bucket)
        means, start = [], 0
        for count in bucket.meta["counts"]:
            total = sum(self._sum(bucket, i, min(i + PART, start + count)) for i in range(start, start + count, PART))
            means.append((total / count).astype(np.float32))
            start += count
        table = pa.table(
            {
                "class_index": pa.array(bucket.meta["classes"], pa.int32()),
                "size": pa.array(bucket.meta["counts"], pa.int64()),
                "mean": schemas.tensor_array(np.stack(means)),
            }
        )
        return self.artifact.commit_table(
            bucket.key, table.cast(schemas.means(means[0].shape)), device=bucket.device, meta={"images": start}
        )

    def _sum(self, bucket: Record, start: int, stop: int) -> np.ndarray:
        rows = schemas.tensor_numpy(self.classes.artifact.read_rows(bucket, start, stop, ["latent"])["latent"])
        return rows.sum(axis=0, dtype=np.float64)


def means_stage(run: RunDir, classes: Sealed) -> Stage:
    """The mean latent of each class of what group has made."""
    work = MeansWork(classes).within(run)
    records = {r.key: r for r in classes.records}
    return Stage(
        "means",
        "images",
        work.artifact,
        list(records),
        records.__getitem__,
        work,
        classes.rows,
        "driver" if classes.rows <= IN_DRIVER else "tasks",
        units=lambda r: r.meta["images"],
    )


@dataclass(frozen=True)
class CheckWork(StageWork):
    name, folder = "check", "checks"

    means: Sealed
    distilled: Annotated[DistilledSet, Keys("images_digest")]

    def load(self, item: str) -> str:
        return item

    def open(self) -> Callable[[str], Record]:
        return self.finish

    def finish(self, key: str) -> Record:
        """All means and one record of syntheses are held at a time."""
        means = self._means()
        parts = [(labels, nearest_means(z, means)) for labels, z in self._latents()]
        labels, nearest = (np.concatenate(column) for column in zip(*parts, strict=True))
        counted = OwnClass.of(labels, nearest, len(means))
        text = canonical({"classes": counted.classes, "nearest": counted.pairs.tolist()})
        return self.artifact.commit(key, text.encode(), rows=1, device="cpu", ext="json")

    def _means(self) -> np.ndarray:
        table = self.means.read()
        order = np.argsort(table["class_index"].to_numpy())
        return schemas.tensor_numpy(table["mean"])[order].reshape(len(order), -1)

    def _latents(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for table in self.distilled.tables(["class_index", "latent"]):
            yield table["class_index"].to_numpy(), schemas.tensor_numpy(table["latent"]).reshape(len(table), -1)


def stage(run: RunDir, means: Sealed, distilled: DistilledSet) -> Stage:
    """The check of one set of syntheses against the means of the real classes."""
    work = CheckWork(means, distilled).within(run)
    return Stage("check", "sets", work.artifact, [KEY], lambda k: k, work, 1, "driver")


def own_class(checked: Sealed) -> OwnClass:
    """What a check has found."""
    kept = json.loads(checked.body())
    return OwnClass(np.array(kept["nearest"], np.int64).reshape(-1, 3), kept["classes"])


def check(
    run: RunDir,
    real: Sealed,
    sets: Mapping[str, DistilledSet],
    classes: Sequence[ClassInfo],
    run_stage: Callable[[Stage, str], Sealed],
) -> dict[str, OwnClass]:
    """Brings the check of each set, by name, and warns, also when it was finished before. `real` is group's."""
    if not sets:
        return {}
    means = run_stage(means_stage(run, real), "means")
    checks = {}
    for name, distilled in sets.items():
        checks[name] = own_class(run_stage(stage(run, means, distilled), f"check {name}"))
        text = warning(checks[name], [c.class_id for c in classes])
        if text is not None:
            say("warning", f"{name}: {text}; docs/bring-your-own.md#are-they-your-classes says what to do")
    return checks
