"""group: shards sorted by time of arrival -> one file per class bucket, sorted by class and image id.

A row group holds one class, or PART rows of a larger one, which tasks then read apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raydistill.clustering.points import CHUNK
from raydistill.errors import StageFailed
from raydistill.sources.base import ClassInfo
from raydistill.stages.runner import Stage
from raydistill.stages.work import StageWork
from raydistill.store.artifact import Record
from raydistill.store.rundir import RunDir
from raydistill.store.sealed import Sealed

PART = 4 * CHUNK


@dataclass(frozen=True)
class Bucket:
    """Where a bucket's rows are: (shard record, row group) pairs in key order."""

    key: str
    parts: tuple[tuple[Record, int], ...]


@dataclass(frozen=True)
class GroupWork(StageWork):
    name, folder = "group", "classes"

    latents: Sealed

    def load(self, item: Bucket) -> Bucket:
        return item

    def open(self) -> Callable[[Bucket], Record]:
        return self.finish

    def finish(self, bucket: Bucket) -> Record:
        table = pa.concat_tables([self._part(record, group) for record, group in bucket.parts])
        order = pc.sort_indices(
            table.drop_columns(["latent"]), sort_keys=[("class_index", "ascending"), ("image_id", "ascending")]
        )
        table = table.take(order)
        classes, rows = np.unique(table["class_index"].to_numpy(), return_counts=True)
        meta = {"classes": classes.tolist(), "counts": rows.tolist()}
        devices = sorted({r.device for r, _ in bucket.parts})
        return self.artifact.commit_table(
            bucket.key, table, device="+".join(devices), meta=meta, row_groups=parts(rows.tolist())
        )

    def _part(self, shard: Record, row_group: int) -> pa.Table:
        """A row group of a shard whose bytes have been checked: whole on a process's first visit, then on their own."""
        shard_id = (str(self.latents.artifact.location), shard.file, shard.sha256)
        if shard_id in _checked:
            return self.latents.artifact.read_row_group(shard, row_group)
        table = self.latents.artifact.read_table(shard, row_group)
        _checked.add(shard_id)
        return table


def parts(rows: Sequence[int]) -> list[int]:
    """Sizes of the row groups of classes of so many rows."""
    return [min(PART, n - start) for n in rows for start in range(0, n, PART)]


_checked: set[tuple[str, str, str]] = set()  # shards that this process has read whole and found as committed


def stage(run: RunDir, latents: Sealed, classes: tuple[ClassInfo, ...]) -> Stage:
    """The group stage over what encode has made. Raises StageFailed for a class that lost all its images."""
    parts: dict[int, list[tuple[Record, int]]] = {}
    present: set[int] = set()
    for record in latents.records:
        present |= {int(c) for c in record.meta["counts"]}
        for group, bucket in enumerate(record.meta["buckets"]):
            parts.setdefault(bucket, []).append((record, group))
    for i, info in enumerate(classes):
        if i not in present:
            raise StageFailed(
                f"group: no image of class {info.class_id!r} could be used; see logs/quarantine.tsv, mend them "
                "or leave the class out with source.classes=[...]"
            )
    keys = {f"bucket-{b:03d}": tuple(p) for b, p in sorted(parts.items())}
    work = GroupWork(latents).within(run)
    return Stage(
        "group",
        "images",
        work.artifact,
        list(keys),
        lambda k: Bucket(k, keys[k]),
        work,
        latents.rows,
        "tasks",
    )
