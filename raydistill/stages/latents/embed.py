"""embed: the usable training images -> features by a pretrained network, a file a class bucket beside group's.

A bucket is a unit: its images are read in the order of their ids, which is that of the shards they lie in, decoded as
for encoding, and held a batch at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Annotated

import numpy as np

from raydistill.config import Config, EmbedConfig, SourceConfig
from raydistill.declared import Aside, Keys
from raydistill.errors import BrokenImage, StageFailed
from raydistill.models import loaded
from raydistill.models.classifier import Classifier, ClassifierSpec, unit_images
from raydistill.models.device import placement
from raydistill.sources.base import Listing, open_source
from raydistill.sources.images import decode
from raydistill.stages.runner import Stage
from raydistill.stages.work import StageWork
from raydistill.store import schemas
from raydistill.store.artifact import Record
from raydistill.store.rundir import RunDir
from raydistill.store.sealed import Sealed


@dataclass(frozen=True)
class EmbedWork(StageWork):
    name, folder = "embed", "features"

    classes: Sealed
    images: str  # the digest of the listing
    network: ClassifierSpec
    embed: Annotated[EmbedConfig, Keys("batch", "dtype", "threads")]
    source: Annotated[SourceConfig, Keys("image_size", "max_pixels")]
    split: Aside[str]

    def load(self, item: Record) -> Record:
        return item

    def open(self) -> Callable[[Record], Record]:
        at = placement(self.embed)
        network = loaded.classifier(self.network, at)

        def finish(bucket: Record) -> Record:
            table = self.classes.table(bucket.key, ["image_id", "class_index"])
            ids = np.array(table["image_id"].to_pylist(), object)
            order = np.argsort(ids, kind="stable")
            embedded = embed_all(network, self._pixels(ids[order].tolist()), self.embed.batch)
            features = np.empty_like(embedded)
            features[order] = embedded
            table = table.append_column("feature", schemas.tensor_array(features))
            return self.artifact.commit_table(
                bucket.key,
                table.cast(schemas.features(features.shape[1])),
                device=at.kind,
                meta={"classes": bucket.meta["classes"], "counts": bucket.meta["counts"]},
                row_groups=bucket.meta["counts"],
            )

        return finish

    def _pixels(self, ids: list[str]) -> Iterator[np.ndarray]:
        for name, data in zip(ids, open_source(self.source).read(self.split, ids), strict=True):
            try:
                yield decode(data, self.source.image_size, self.source.max_pixels)
            except BrokenImage as e:
                raise StageFailed(
                    f"embed: image {name} could be used when it was encoded and cannot now ({e}); put it back, or "
                    "start again with the images as they are now"
                ) from None


def embed_all(network: Classifier, pixels: Iterable[np.ndarray], batch: int) -> np.ndarray:
    """Images (S, S, 3) uint8 -> features (n, D) float32, n > 0, in batches of one shape, the last padded."""
    left, parts = iter(pixels), []
    while some := list(islice(left, batch)):
        padded = np.stack(some + some[:1] * (batch - len(some)))
        parts.append(network.features(unit_images(padded)).cpu().numpy()[: len(some)])
    return np.concatenate(parts)


def stage(config: Config, run: RunDir, classes: Sealed, train: Listing, network: ClassifierSpec) -> Stage:
    """The embed stage over what group has made."""
    e = config.embed
    work = EmbedWork(classes, train.digest, network, e, config.source, train.split).within(run)
    records = {r.key: r for r in classes.records}
    return Stage("embed", "images", work.artifact, list(records), records.__getitem__, work, classes.rows, "actors", e)
