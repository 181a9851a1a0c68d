"""Real latents of a class, and those around a prototype: what manifold guidance looks at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from raydistill.errors import StageFailed
from raydistill.store import schemas
from raydistill.store.artifact import Artifact, Manifest, Record

_checked: set[tuple[str, str]] = set()  # buckets that this process has read whole and found as committed


@dataclass(frozen=True)
class RealLatents:
    """The classes/ artifact, read a class at a time: a bucket holds a row group for each of its classes."""

    artifact: Artifact
    manifest: Manifest

    def of(self, class_index: int) -> np.ndarray:
        """Latents of a class, (N, C, h, w) float16, by image id."""
        for bucket in self.manifest.records:
            if class_index in bucket.meta["classes"]:
                table = self._row_group(bucket, bucket.meta["classes"].index(class_index))
                return schemas.tensor_numpy(table["latent"])
        raise StageFailed(f"sample: class {class_index} has no latents under {self.artifact.location}")

    def _row_group(self, bucket: Record, group: int) -> pa.Table:
        place = (str(self.artifact.location), bucket.sha256)
        if place not in _checked:
            self.artifact.verify([bucket])
            _checked.add(place)
        return self.artifact.read_row_group(bucket, group)


def around(latents: np.ndarray, prototype: np.ndarray, count: int) -> np.ndarray:
    """The `count` latents (N, C, h, w) nearest the prototype (C, h, w), nearest first, float32, NaN where N is less."""
    x = latents.reshape(len(latents), -1).astype(np.float32)
    far = np.square(x - prototype.reshape(1, -1)).sum(axis=1, dtype=np.float64)
    near = np.argsort(far, kind="stable")[:count]
    out = np.full((count, *latents.shape[1:]), np.nan, np.float32)
    out[: len(near)] = latents[near]
    return out
