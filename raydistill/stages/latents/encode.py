"""encode: chunks of images -> Parquet shards of latents. CPU tasks read and decode, VAE actors encode and commit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import torch

from raydistill.config import Config, EncodeConfig, SourceConfig
from raydistill.declared import Aside, Keys
from raydistill.errors import BrokenImage, StageFailed
from raydistill.models import loaded
from raydistill.models.device import placement
from raydistill.models.vae import Vae, VaeSpec
from raydistill.sources.base import Listing, open_source
from raydistill.sources.images import decode
from raydistill.stages import quarantine
from raydistill.stages.runner import Stage
from raydistill.stages.work import StageWork
from raydistill.store import schemas
from raydistill.store.artifact import Record
from raydistill.store.rundir import RunDir


@dataclass(frozen=True)
class Chunk:
    """The unit of commit: images in listing order."""

    key: str
    ids: Sequence[str]
    labels: np.ndarray  # (n,) int32


@dataclass(frozen=True)
class Decoded:
    """pixels (n, S, S, 3) uint8 of the usable images, and why the others are not."""

    key: str
    ids: Sequence[str]
    labels: np.ndarray
    pixels: np.ndarray
    broken: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class EncodeWork(StageWork):
    name, folder = "encode", "latents"

    images: str  # the digest of the listing
    vae: VaeSpec
    buckets: int
    encode: Annotated[EncodeConfig, Keys("chunk", "batch", "dtype", "threads")]
    source: Annotated[SourceConfig, Keys("image_size", "max_pixels")]
    split: Aside[str]
    classes: Aside[int]

    def load(self, item: Chunk) -> Decoded:
        size = self.source.image_size
        pixels, kept, broken = [], [], []
        for i, data in enumerate(open_source(self.source).read(self.split, item.ids)):
            try:
                pixels.append(decode(data, size, self.source.max_pixels))
                kept.append(i)
            except BrokenImage as e:
                broken.append((item.ids[i], str(e)))
        stacked = np.stack(pixels) if pixels else np.zeros((0, size, size, 3), np.uint8)
        return Decoded(item.key, [item.ids[i] for i in kept], item.labels[kept], stacked, broken)

    def open(self) -> Callable[[Decoded], Record]:
        at = placement(self.encode)
        vae = loaded.vae(self.vae, at)
        shape = self.vae.latent_shape(self.source.image_size)

        def finish(chunk: Decoded) -> Record:
            latents = encode_all(vae, chunk.pixels, self.encode.batch, shape).astype(np.float16)
            if not np.isfinite(latents).all():
                raise StageFailed(f"encode: {chunk.key} has latents beyond float16; check the VAE's scaling_factor")
            bucket = chunk.labels.astype(np.int64) * self.buckets // self.classes
            order = np.argsort(bucket, kind="stable")
            present, rows = np.unique(bucket, return_counts=True)
            table = pa.table(
                {
                    "image_id": pa.array([chunk.ids[i] for i in order], pa.string()),
                    "class_index": pa.array(chunk.labels[order], pa.int32()),
                    "latent": schemas.tensor_array(latents[order]),
                },
                schema=schemas.latents(shape),
            )
            counts = np.bincount(chunk.labels, minlength=self.classes)
            meta = {
                "buckets": present.tolist(),
                "broken": [list(b) for b in chunk.broken],
                "counts": {str(c): int(counts[c]) for c in np.flatnonzero(counts)},
            }
            return self.artifact.commit_table(chunk.key, table, device=at.kind, meta=meta, row_groups=rows.tolist())

        return finish


def encode_all(vae: Vae, pixels: np.ndarray, batch: int, shape: tuple[int, int, int]) -> np.ndarray:
    """(n, S, S, 3) uint8 -> (n, C, h, w) float32 in micro-batches of one shape, the last padded."""
    out = np.empty((len(pixels), *shape), np.float32)
    for start in range(0, len(pixels), batch):
        part = pixels[start : start + batch]
        padded = np.concatenate([part, np.repeat(part[:1], batch - len(part), axis=0)])
        out[start : start + batch] = vae.encode(torch.from_numpy(padded)).numpy()[: len(part)]
    return out


def stage(config: Config, run: RunDir, train: Listing, vae: VaeSpec) -> Stage:
    """The encode stage over a listing of training images."""
    buckets = min(config.group.buckets, len(train.classes))
    chunk = config.encode.chunk
    starts = {f"chunk-{i:06d}": start for i, start in enumerate(range(0, len(train), chunk))}
    work = EncodeWork(train.digest, vae, buckets, config.encode, config.source, train.split, len(train.classes))
    work = work.within(run)

    def item(key: str) -> Chunk:
        rows = slice(starts[key], starts[key] + chunk)
        return Chunk(key, train.ids[rows].to_pylist(), train.labels[rows])

    def inspect(records: list[Record]) -> None:
        check_broken(records, len(train), config.source.max_broken, run)

    return Stage(
        "encode",
        "images",
        work.artifact,
        list(starts),
        item,
        work,
        len(train),
        "stream",
        config.encode,
        units=lambda r: r.rows + len(r.meta["broken"]),
        summarise=summarise,
        inspect=inspect,
    )


def summarise(records: list[Record]) -> dict[str, Any]:
    return {"images": sum(r.rows for r in records), "broken": [b for r in records for b in r.meta["broken"]]}


def check_broken(records: list[Record], total: int, limit: float, run: RunDir) -> None:
    """Writes the quarantine file if any image is broken. Raises StageFailed above the limit."""
    broken = [b for r in records for b in r.meta["broken"]]
    if not broken:
        return
    where = quarantine.write(run.root / "logs", broken)
    if len(broken) > limit * total:
        raise StageFailed(
            f"encode: {len(broken)} of {total} images cannot be used, more than source.max_broken={limit:g} "
            f"(first: {broken[0][0]}: {broken[0][1]}); see {where}, mend them or raise the limit, run again"
        )
