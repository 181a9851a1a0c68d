"""The cluster stage at ImageNet-1K's size: 1,000 classes of 1,300 latents of 4,096 numbers, on Ray with two cores.

    python benchmarks/cluster_scale.py --work DIR [--scale 0.05] [--algorithm clvq] [--cpus 2] [--memory-mb 1024]

Writes float16 latents into DIR as the group stage leaves them (about 10 GB; DIR must be new), clusters them on a local
Ray cluster as a run does, reads every tree back, and deletes DIR. `--scale` takes that share of the classes, as many to
a bucket. Prints wall time, reading and checking included, CPU time of the workers, their start included, and the
largest peak resident memory of a worker (VmHWM, from the kernel). Fails if a point is left out, a worker takes more
than 2 GiB, or the time is above 15 minutes for the whole, in proportion and with a minute to start. Linux only.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).resolve().parent))

from measure import RESULTS, machine, save, table

from raydistill import registry
from raydistill.config import build
from raydistill.distributed.executors import on_ray
from raydistill.sources.base import ClassInfo
from raydistill.stages import runner
from raydistill.stages.latents import group
from raydistill.stages.prototypes import cluster
from raydistill.store import schemas
from raydistill.store.artifact import Artifact, Manifest
from raydistill.store.rundir import RunDir
from raydistill.store.sealed import Sealed

CLASSES, IMAGES, SHAPE, BUCKETS = 1000, 1300, (4, 32, 32), 32
SECONDS, BYTES = 15 * 60, 2 * 2**30


def latents(seed: int, count: int) -> np.ndarray:
    """Forty overlapping clouds (count, *SHAPE) float16."""
    rng = np.random.default_rng(seed)
    centres = 0.4 * rng.standard_normal((40, *SHAPE), dtype=np.float32)
    z = rng.standard_normal((count, *SHAPE), dtype=np.float32)
    return (z + centres[rng.integers(40, size=count)]).astype(np.float16)


def write(artifact: Artifact, classes: int, images: int) -> Manifest:
    """Sorted buckets, a row group for every class."""
    keys = []
    buckets = np.array_split(np.arange(classes), max(1, round(classes * BUCKETS / CLASSES)))
    for b, members in enumerate(buckets):
        tables = [
            pa.table(
                {
                    "image_id": pa.array([f"{c:04d}/{i:06d}" for i in range(images)]),
                    "class_index": pa.array([c] * images, pa.int32()),
                    "latent": schemas.tensor_array(latents(int(c), images)),
                },
                schema=schemas.latents(SHAPE),
            )
            for c in members
        ]
        counts = [images] * len(members)
        keys.append(f"bucket-{b:03d}")
        artifact.commit_table(
            keys[-1],
            pa.concat_tables(tables),
            device="cpu",
            meta={"classes": members.tolist(), "counts": counts},
            row_groups=group.parts(counts),
        )
        print(f"\rwritten: {b + 1} of {len(buckets)} buckets", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return artifact.seal(keys)


class Peaks:
    """Peak resident bytes and CPU seconds of every Ray worker below this process, by process id, while entered."""

    def __enter__(self) -> Peaks:
        self.seen: dict[int, tuple[int, float]] = {}
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._look()
        self.over.set()
        self.thread.join()

    def _watch(self) -> None:
        while not self.over.wait(0.5):
            self._look()

    def _look(self) -> None:
        for process in psutil.Process().children(recursive=True):
            try:
                if process.cmdline()[:1] and process.cmdline()[0].startswith("ray::"):
                    status = Path(f"/proc/{process.pid}/status").read_text()
                    match = re.search(r"VmHWM:\s*(\d+) kB", status)
                    cpu = process.cpu_times()
                    self.seen[process.pid] = (int(match[1]) * 1024 if match else 0, cpu.user + cpu.system)
            except (psutil.Error, OSError):
                continue


def check(artifact: Artifact, manifest: Manifest, classes: int, images: int) -> None:
    """Every point of every class is in a cluster."""
    for record in manifest.records:
        table = artifact.read_table(record)
        sizes = table["size"].to_numpy()
        whole = table["split"].to_numpy() == 0 if "split" in table.column_names else np.ones(len(table), bool)
        members = np.bincount(table["class_index"].to_numpy()[whole], weights=sizes[whole], minlength=classes)
        assert (members[record.meta["classes"]] == images).all(), "a point has been left out"


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--work", type=Path, required=True, help="a new folder; deleted at the end")
    p.add_argument("--scale", type=float, default=1.0, help="share of the 1,000 classes")
    p.add_argument("--images", type=int, default=IMAGES, help="images a class")
    p.add_argument("--algorithm", default="divisive", choices=registry.names("clustering"))
    p.add_argument("--batch", type=int, help="cluster.batch of clvq, default its own")
    p.add_argument("--cpus", type=int, default=2)
    p.add_argument("--memory-mb", type=int, default=1024)
    p.add_argument("--out", type=Path, default=RESULTS / "cluster-scale.json")
    args = p.parse_args()
    before = machine()
    classes = max(1, round(CLASSES * args.scale))
    args.work.mkdir(parents=True)
    try:
        run = RunDir(str(args.work))
        cluster_section = {"algorithm": args.algorithm, "memory_mb": args.memory_mb, "batch": args.batch}
        config = build({"ipc": 50, "cluster": cluster_section, "ray": {"num_cpus": args.cpus}})
        artifact = run.artifact("classes", "0" * 16)
        source = Sealed(artifact, write(artifact, classes, args.images))
        infos = tuple(ClassInfo(str(c), str(c)) for c in range(classes))
        stage = cluster.stage(config, run, source, infos, SHAPE)
        with Peaks() as peaks:
            start = time.monotonic()
            done = runner.run(stage, on_ray(config.ray)).manifest
            wall = time.monotonic() - start
        check(stage.artifact, done, classes, args.images)
        size = sum(r.bytes for r in source.records), sum(r.bytes for r in done.records)
    finally:
        shutil.rmtree(args.work)
    most = max((memory for memory, _ in peaks.seen.values()), default=0)
    cpu = sum(seconds for _, seconds in peaks.seen.values())
    measured = {
        "classes": classes,
        "read, GB": f"{size[0] / 1e9:.2f}",
        "written, GB": f"{size[1] / 1e9:.2f}",
        "wall, s": f"{wall:.0f}",
        "CPU, s": f"{cpu:.0f}",
        "workers": len(peaks.seen),
        "peak of one, MiB": f"{most / 2**20:.0f}",
    }
    save(args.out, {"machine": before, "algorithm": args.algorithm, "images": args.images, **measured},
         table(list(measured), [[str(v) for v in measured.values()]]))  # fmt: skip
    return 0 if 0 < most <= BYTES and wall <= SECONDS * args.scale + 60 else 1


if __name__ == "__main__":
    sys.exit(main())
