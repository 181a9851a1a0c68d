"""Latents as the group stage leaves them, without an image having been encoded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from raydistill.sources.base import ClassInfo
from raydistill.stages.latents import group
from raydistill.store import schemas
from raydistill.store.rundir import RunDir
from raydistill.store.sealed import Sealed


def grouped(root: Path, latents: Sequence[np.ndarray]) -> tuple[RunDir, Sealed, tuple[ClassInfo, ...]]:
    """One bucket of the classes a, b, .. with latents (N, *shape) each; images are numbered through."""
    counts = [len(z) for z in latents]
    z = np.concatenate(latents).astype(np.float16)
    columns = {
        "image_id": [f"{i:05d}" for i in range(len(z))],
        "class_index": np.repeat(np.arange(len(counts)), counts).astype(np.int32),
        "latent": schemas.tensor_array(z),
    }
    table = pa.table(columns, schema=schemas.latents(z.shape[1:]))
    run = RunDir(str(root))
    artifact = run.artifact("classes", "0" * 16)
    meta = {"classes": list(range(len(counts))), "counts": counts}
    artifact.commit_table("bucket-000", table, device="cpu", meta=meta, row_groups=group.parts(counts))
    infos = tuple(ClassInfo(c, c) for c in "abcdefgh"[: len(counts)])
    return run, Sealed(artifact, artifact.seal(["bucket-000"])), infos
