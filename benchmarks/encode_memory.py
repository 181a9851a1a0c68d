"""Resident memory of the encode stage against the size of the set: it must be flat (within 10 %).

    python benchmarks/encode_memory.py --images ../shared/data/imagenette-224 --sizes 5000 50000

Makes Parquet sets of the asked sizes by linking the real JPEG shards under several names, encodes each in a process of
its own with the packaged VAE at 32 px, and samples the proportional set size (PSS) of the driver and of every Ray
process below it. Prints peak and median, and fails if the largest peak exceeds the smallest by more than 10 %. The
median of a short run is lower because more of it is start-up.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[1]


def link_set(images: Path, size: int, out: Path) -> int:
    """Shards of `images` linked as often as needed for `size` images. Returns the number of images."""
    shards = sorted(images.glob("train-*.parquet"))
    rows = {s: pq.ParquetFile(s).metadata.num_rows for s in shards}
    chosen, total = [], 0
    while total < size:
        shard = shards[len(chosen) % len(shards)]
        chosen.append(shard)
        total += rows[shard]
    out.mkdir()
    for i, shard in enumerate(chosen):
        (out / f"train-{i:05d}-of-{len(chosen):05d}.parquet").symlink_to(shard.resolve())
    for other in [*images.glob("val-*.parquet"), images / "classes.json"]:
        (out / other.name).symlink_to(other.resolve())
    return total


def pss(process: psutil.Process) -> int:
    """Proportional set size of a process and all below it, bytes; shared pages are counted once in all."""
    total = 0
    for p in [process, *process.children(recursive=True)]:
        try:
            total += p.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total


def measure(data: Path, work: Path, chunk: int) -> list[tuple[float, int]]:
    """(seconds, bytes) while the encode verb runs. The first samples include the start of Ray."""
    command = [
        sys.executable,
        str(ROOT / "jobs" / "encode.py"),
        "source.kind=parquet",
        f"source.path={data}",
        "source.image_size=32",
        f"encode.chunk={chunk}",
        f"run_dir={work}",
    ]
    start = time.monotonic()
    with open(work.with_suffix(".log"), "w") as log:
        job = subprocess.Popen(command, stdout=log, stderr=log)
        process, samples = psutil.Process(job.pid), []
        while job.poll() is None:
            samples.append((time.monotonic() - start, pss(process)))
            time.sleep(1.0)
    if job.returncode:
        raise SystemExit(work.with_suffix(".log").read_text())
    return samples


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--images", type=Path, required=True, help="Parquet set of JPEGs in the Hugging Face image layout")
    p.add_argument("--sizes", type=int, nargs="+", default=[5000, 50000])
    p.add_argument("--chunk", type=int, default=256)
    args = p.parse_args()
    peaks = []
    print("| images | seconds | peak, MiB | median, MiB |\n|---|---|---|---|")
    for size in args.sizes:
        work = Path(tempfile.mkdtemp())
        try:
            total = link_set(args.images, size, work / "data")
            samples = measure(work / "data", work / "run", args.chunk)
        finally:
            shutil.rmtree(work)
        values = [b for _, b in samples]
        peaks.append(max(values))
        middle = statistics.median(values)
        print(f"| {total} | {samples[-1][0]:.0f} | {peaks[-1] / 2**20:.0f} | {middle / 2**20:.0f} |", flush=True)
    ratio = max(peaks) / min(peaks)
    print(f"\nlargest / smallest peak: {ratio:.3f}")
    return 0 if ratio <= 1.10 else 1


if __name__ == "__main__":
    sys.exit(main())
