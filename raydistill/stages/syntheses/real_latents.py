"""The real latents of a class, read where they lie: what guidance measures itself by."""

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
