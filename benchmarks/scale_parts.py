"""The parts of the scale rehearsal, each in a process of its own: what one costs is not in another's memory.

CPU seconds are those of this process, the driver's; its peak memory is the kernel's (VmHWM).
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from paged_store import FINGERPRINT, Filled, endpoint

from raydistill.config import build
from raydistill.distributed.executors import on_ray
from raydistill.methods.resolve import resolve
from raydistill.sources.base import ClassInfo
from raydistill.stages import runner
from raydistill.stages.latents import group
from raydistill.stages.runner import Stage, serial
from raydistill.stages.syntheses import plan, sample
from raydistill.store import schemas
from raydistill.store.artifact import Artifact, Record
from raydistill.store.location import Location
from raydistill.store.rundir import RunDir
from raydistill.store.sealed import Sealed

DATA = b"a unit's data" * 8
COMMITTED = 2000  # keys that are committed one by one where so many are there already


def peak() -> int:
    """The most resident bytes that this process has had."""
    status = Path("/proc/self/status").read_text()
    match = re.search(r"VmHWM:\s*(\d+) kB", status)
    return int(match[1]) * 1024 if match else 0


class Clock:
    """Wall and CPU seconds of this process by what they went to."""

    def __init__(self) -> None:
        self.figures: dict[str, Any] = {}

    @contextlib.contextmanager
    def __call__(self, name: str, per: int = 1) -> Iterator[None]:
        wall, cpu = time.monotonic(), time.process_time()
        yield
        self.figures[f"{name}, s"] = (time.monotonic() - wall) / per
        self.figures[f"{name}, CPU s"] = (time.process_time() - cpu) / per


# -- keys ----------------------------------------------------------------------------------------------------------


def local_keys(keys: int, work: str) -> dict[str, Any]:
    """Commits so many keys into a folder, lists, reads and seals them, and reads the manifest."""
    artifact, names = Artifact(Location.of(f"{work}/keys"), "sample", FINGERPRINT), _names(keys)
    clock = Clock()
    with clock("a commit", keys):
        records = _committed(artifact, names)
    return _listed(artifact, names, records, clock)


def stored_keys(keys: int, latency_s: float) -> dict[str, Any]:
    """The same on the stand-in for S3, where most keys are from the start; COMMITTED more are committed."""
    clock, names = Clock(), _names(keys)
    filled, known = Filled(), []
    for name in names[: max(0, keys - COMMITTED)]:
        known.append(filled.commit(name, DATA))
    with endpoint(filled.objects, latency_s) as uri:
        artifact, left = Artifact(Location.of(uri), "sample", FINGERPRINT), names[len(known) :]
        with clock("a commit", len(left)):
            known += _committed(artifact, left)
        return _listed(artifact, names, known, clock)


def _names(keys: int) -> list[str]:
    return [f"batch-{i:06d}" for i in range(keys)]


def _committed(artifact: Artifact, names: Sequence[str]) -> list[Record]:
    with ThreadPoolExecutor(8) as writers:
        return list(writers.map(lambda key: artifact.commit(key, DATA, rows=1, device="cpu/float32"), names))


def _listed(artifact: Artifact, names: Sequence[str], known: Sequence[Record], clock: Clock) -> dict[str, Any]:
    before = peak()
    with clock("a listing"):
        listed = (artifact.location / "commits").list_by_age()
    with clock("an interrupted stage looked at"):
        records = artifact.records()
    with clock("sealing, every commit read again"):
        manifest = artifact.seal(names)
    with clock("sealing, what is known not read"):
        again = artifact.seal(names, known=known)
    with clock("the manifest of a finished stage"):
        sealed = Sealed.finished(artifact)
    assert len(listed) == len(records) == len(names) and manifest == again and sealed is not None
    megabytes = ((artifact.location / "manifest.json").size() or 0) / 1e6
    return {
        "keys": len(names),
        **clock.figures,
        "manifest, MB": megabytes,
        "driver, MiB more": (peak() - before) / 2**20,
    }


# -- plan and sample -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StandIn:
    """A denoiser that takes `seconds` for a batch: prototypes are its latents, grey its images of 8 pixels."""

    artifact: Artifact
    seconds: float

    def load(self, item: Any) -> Any:
        return item

    def open(self) -> Callable[[Any], Record]:
        def finish(slots: Any) -> Record:
            time.sleep(self.seconds)
            z = schemas.tensor_numpy(slots.table["prototype"])
            pixels = np.full((len(z), 8, 8, 3), 128, np.uint8)
            return sample.commit(self.artifact, slots, pixels, z, 0, "cpu/float32")

        return finish


def planned(work: str, images: int, slots: int, classes: int, shape: Sequence[int], batch: int) -> dict[str, Any]:
    """Latents of so many images as the group stage leaves them, and the plan of so many slots, made and read."""
    run, clock, infos = RunDir(work), Clock(), tuple(ClassInfo(f"n{c:08d}", str(c)) for c in range(classes))
    channels, height, width = shape
    config = build({"method": "kmeans", "ipc": slots // classes, "sample": {"batch": batch}})
    with clock("latents written"):
        latents = _latents(run, images // classes, classes, tuple(shape))
    prototypes = _prototypes(run, slots // classes, latents, tuple(shape))
    variant, before = resolve(config), peak()
    with clock("plan"):
        stage = plan.stage(variant, run, latents, prototypes, infos, (channels, height, width))
        sealed = runner.run(stage, serial).sealed
    planned_peak = peak()
    with clock("plan read"):
        table = sealed.read()
    row = {"images": images, "slots": len(table), "batches": -(-len(table) // batch), "latent": list(shape)}
    return {**row, **clock.figures, "driver before, MiB": before / 2**20, "driver at most, MiB": planned_peak / 2**20,
            "bytes a slot": (planned_peak - before) / len(table), "artifact": sealed.artifact.fingerprint}  # fmt: skip


def _latents(run: RunDir, images: int, classes: int, shape: tuple[int, ...]) -> Sealed:
    artifact, keys = run.artifact("classes", FINGERPRINT), []
    for b, members in enumerate(np.array_split(np.arange(classes), max(1, classes // 32))):
        z = np.random.default_rng(b).standard_normal((images * len(members), *shape), dtype=np.float32)
        columns = {
            "image_id": [f"{c:04d}/{i:06d}" for c in members for i in range(images)],
            "class_index": np.repeat(members, images).astype(np.int32),
            "latent": schemas.tensor_array(z.astype(np.float16)),
        }
        counts = [images] * len(members)
        keys.append(f"bucket-{b:03d}")
        table = pa.table(columns, schema=schemas.latents(shape))
        meta = {"classes": members.tolist(), "counts": counts}
        artifact.commit_table(keys[-1], table, device="cpu", meta=meta, row_groups=group.parts(counts))
    return Sealed(artifact, artifact.seal(keys))


def _prototypes(run: RunDir, count: int, latents: Sealed, shape: tuple[int, ...]) -> Sealed:
    """The first images of every class, as if they were its centroids and medoids."""
    artifact = run.artifact("prototypes", FINGERPRINT)
    for record in latents.records:
        table, parts, start = latents.table(record.key), [], 0
        for c, images in zip(record.meta["classes"], record.meta["counts"], strict=True):
            some = table.slice(start, count)
            start += images
            columns = {
                "class_index": np.full(count, c, np.int32),
                "prototype_id": np.arange(count, dtype=np.int32),
                "size": np.full(count, images // count),
                "sse": np.ones(count),
                "medoid": some["image_id"],
                "centroid": schemas.tensor_array(schemas.tensor_numpy(some["latent"]).astype(np.float32)),
            }
            parts.append(pa.table(columns, schema=schemas.prototypes(shape)))
        artifact.commit_table(
            record.key, pa.concat_tables(parts), device="cpu", meta={"classes": record.meta["classes"]}
        )
    return Sealed(artifact, artifact.seal([r.key for r in latents.records]))


def sampled(work: str, artifact: str, batches: int, batch_s: float, actors: int, ray: bool = True) -> dict[str, Any]:
    """The first batches of a plan through the pool with the stand-in. Overhead: the wall time that a batch takes, less
    what its actor works on it when it runs alone, for `actors` at once on the cores that there are."""
    run, clock = RunDir(work), Clock()
    sealed = Sealed.finished(run.artifact("plan", artifact))
    assert sealed is not None
    slots = sealed.read()
    labels = slots["batch"].to_numpy()
    bounds = np.searchsorted(labels, np.arange(int(labels[-1]) + 2))
    keys = [f"batch-{b:05d}" for b in range(min(batches, int(labels[-1]) + 1))]

    def item(key: str) -> sample.Slots:
        start, stop = bounds[int(key[6:])], bounds[int(key[6:]) + 1]
        return sample.Slots(key, slots.slice(start, stop - start).combine_chunks())

    def stage(name: str, some: Sequence[str]) -> Stage:
        config = build({"sample": {"actors": actors, "num_cpus": 1, "batch": 1}})
        out = run.artifact("syntheses", name * 16)
        return Stage("sample", "images", out, some, item, StandIn(out, batch_s), len(slots), "actors", config.sample)

    alone = keys[: max(1, len(keys) // 10)]
    with clock("a batch without Ray", len(alone)):
        runner.run(stage("1", alone), serial)
    if ray:
        execute = on_ray(build({"ray": {"num_cpus": actors + 1}}).ray)
        runner.run(stage("2", keys[:actors]), execute)  # actors are up and warm
        with clock("a batch on Ray", len(keys)):
            runner.run(stage("3", keys), execute)
    return {"slots": len(slots), "batches": len(keys), "actors": actors, "denoiser, s a batch": batch_s,
            **clock.figures, "driver at most, MiB": peak() / 2**20}  # fmt: skip


PARTS: dict[str, Callable[..., dict[str, Any]]] = {
    "local_keys": local_keys, "stored_keys": stored_keys, "planned": planned, "sampled": sampled
}  # fmt: skip
