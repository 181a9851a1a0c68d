"""Real latents of a class, those around a prototype, and how far they are spread: what guidance measures itself by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from raydistill.errors import StageFailed
from raydistill.store import schemas
from raydistill.store.artifact import Artifact, Manifest


@dataclass(frozen=True)
class RealLatents:
    """The classes/ artifact, read a class at a time."""

    artifact: Artifact
    manifest: Manifest

    def of(self, class_index: int) -> np.ndarray:
        """Latents of a class, (N, C, h, w) float16, by image id."""
        for bucket in self.manifest.records:
            if class_index in bucket.meta["classes"]:
                self.artifact.verify_once(bucket)
                place = bucket.meta["classes"].index(class_index)
                start = sum(bucket.meta["counts"][:place])
                table = self.artifact.read_rows(bucket, start, start + bucket.meta["counts"][place], ["latent"])
                return schemas.tensor_numpy(table["latent"])
        raise StageFailed(f"sample: class {class_index} has no latents under {self.artifact.location}")


def spread(latents: np.ndarray) -> float:
    """Median distance of the latents (N, C, h, w) of a class to their mean, in their own space; 0 for a single one."""
    x = latents.reshape(len(latents), -1).astype(np.float32)
    x -= x.mean(axis=0, dtype=np.float64).astype(np.float32)
    return float(np.median(np.sqrt(np.square(x).sum(axis=1, dtype=np.float64))))


def around(latents: np.ndarray, prototype: np.ndarray, count: int) -> np.ndarray:
    """The `count` latents (N, C, h, w) nearest the prototype (C, h, w), nearest first, float32, NaN where N is less."""
    x = latents.reshape(len(latents), -1).astype(np.float32)
    far = np.square(x - prototype.reshape(1, -1)).sum(axis=1, dtype=np.float64)
    near = np.argsort(far, kind="stable")[:count]
    out = np.full((count, *latents.shape[1:]), np.nan, np.float32)
    out[: len(near)] = latents[near]
    return out
