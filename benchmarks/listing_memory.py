"""Memory and time of listing a training split: ImageNet's 1.28 million images must fit into 1 GiB of the driver.

    python benchmarks/listing_memory.py --files 200000 [--kind imagefolder webdataset] [--full]

Makes splits of empty images under ImageNet's names (1,000 classes), of a quarter of the files and of all of them, lists
each in a process of its own, takes its digest and carves a search split as a run does, and reads that process's peak
resident memory (VmHWM) from the kernel. What 1,281,167 images take is the line through the two points; `--full` makes
them all instead (a minute or two, and as many inodes). Fails if the largest is above 1 GiB. Linux only.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
IMAGENET, CLASSES, LIMIT = 1_281_167, 1000, 2**30
SHARD = 1251  # samples a shard: ImageNet in 1,024 of them, as it is commonly packed
CHILD = """
import re, sys, time
from pathlib import Path
from raydistill.config import SourceConfig
from raydistill.sources.base import _held_out, open_source
peak = lambda: int(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
source = open_source(SourceConfig(kind=sys.argv[1], path=sys.argv[2]))
before, start = peak(), time.monotonic()
listing = source.list("train")
listing.digest, _held_out(listing, 0.1)
print(len(listing), before, peak(), time.monotonic() - start)
"""


def write_folder(path: Path, files: int) -> None:
    """PATH/train/WNID/WNID_NUMBER.JPEG, all empty."""
    for c in range(CLASSES):
        folder = path / "train" / f"n{c:08d}"
        folder.mkdir(parents=True)
        for i in range(c, files, CLASSES):
            (folder / f"n{c:08d}_{i // CLASSES}.JPEG").touch()


def write_shards(path: Path, files: int) -> None:
    """PATH/train-NNNNN.tar, empty images and their classes."""
    path.mkdir()
    for shard, start in enumerate(range(0, files, SHARD)):
        with open(path / f"train-{shard:05d}.tar", "wb") as out:
            for i in range(start, min(files, start + SHARD)):
                name, label = f"n{i % CLASSES:08d}_{i // CLASSES}", str(i % CLASSES).encode()
                out.write(header(f"{name}.cls", len(label)) + label.ljust(512, b"\0") + header(f"{name}.jpg", 0))
            out.write(bytes(1024))


def header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.USTAR_FORMAT)


WRITE = {"imagefolder": write_folder, "webdataset": write_shards}


def measure(kind: str, files: int, where: Path | None) -> int:
    """Peak bytes of a process that lists. Prints a row."""
    with tempfile.TemporaryDirectory(dir=where) as work:
        path = Path(work) / "set"
        WRITE[kind](path, files)
        done = subprocess.run([sys.executable, "-c", CHILD, kind, str(path)], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    count, before, peak, seconds = map(float, done.stdout.split())
    assert count == files
    print(f"| {kind} | {files} | {seconds:.1f} | {before / 2**20:.0f} | {peak / 2**20:.0f} |", flush=True)
    return int(peak)


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--files", type=int, default=200_000)
    p.add_argument("--kind", nargs="+", choices=list(WRITE), default=list(WRITE))
    p.add_argument("--full", action="store_true", help="make 1,281,167 files instead of extrapolating")
    p.add_argument("--dir", type=Path, help="where to make the files (default: the temporary folder)")
    args = p.parse_args()
    worst = 0.0
    print("| source | images | seconds | before, MiB | peak, MiB |\n|---|---|---|---|---|")
    for kind in args.kind:
        if args.full:
            worst = max(worst, measure(kind, IMAGENET, args.dir))
            continue
        few = measure(kind, args.files // 4, args.dir)
        many = measure(kind, args.files, args.dir)
        each = (many - few) / (args.files - args.files // 4)
        whole = many + each * (IMAGENET - args.files)
        worst = max(worst, whole)
        print(f"| {kind} | {IMAGENET}, extrapolated at {each:.0f} bytes an image | | | {whole / 2**20:.0f} |")
    print(f"\nlargest: {worst / 2**20:.0f} MiB of {LIMIT / 2**20:.0f}")
    return 0 if worst <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
