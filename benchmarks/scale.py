"""A run at ImageNet-1K's size without its networks: what the driver holds, what a batch and a key cost, what breaks.

    python benchmarks/scale.py --work DIR [--images 1000000] [--slots 1000000] [--keys 100000] [--batches 3000]
                               [--batch-s 0] [--latency-ms 0] [--encoded 20000] [--parts folder store ...]

Writes latents of `--images` images as the group stage leaves them (of 4x2x2 numbers, so that rows count and not bytes),
plans `--slots` images from them, and plans a fiftieth once more with latents of 4x32x32; sends `--batches` batches of
that plan through the pool of actors with a stand-in for the denoiser that takes `--batch-s` seconds a batch; commits,
lists, seals and reads `--keys` keys in a local folder and on a stand-in for S3 that answers `--latency-ms` late; kills
`--workers` actors at `--losses-per-hour` while they do `--units` units of `--unit-s`, and asks plan's simulation; and
makes a run of `--encoded` images on Ray up to its distilled set, whose command it then gives once more. Each part is a
process of its own, whose figures are kept as a file in --out with when, by which commit and at what load; scale.md
there is the table of all that lie there. DIR must be new and is deleted (2 GB). Linux only.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from measure import RESULTS, ROOT, child, job, machine, plain_environment, table

CLASSES, BATCH, SMALL, LATENT = 1000, 20, (4, 2, 2), (4, 32, 32)
PARTS = ("folder", "store", "plan", "sample", "losses", "run")
COLD = """
import re, resource, runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    used, status = resource.getrusage(resource.RUSAGE_SELF), open("/proc/self/status").read()
    print("peak", re.search(r"VmHWM:\\s*(\\d+)", status)[1], "cpu", used.ru_utime + used.ru_stime, file=sys.stderr)
"""  # not ru_maxrss, which a child has of its parent


Cells = dict[str, dict[str, Any]]  # figures by what they are of


def part(name: str, **body: Any) -> dict[str, Any]:
    """The figures of a part. Raises SystemExit with what it said if it fails."""
    print(f"{name} ...", file=sys.stderr, flush=True)
    before = machine()
    done = subprocess.run(
        child(__file__, part=name, **body), cwd=ROOT, env=plain_environment(), capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr}")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures | origin(before)


def origin(before: Mapping[str, Any]) -> dict[str, Any]:
    """When, by which commit, and on what machine and at what load before and after."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    stamp = {"date": time.strftime("%Y-%m-%d"), "commit": commit.stdout.strip()}
    return {"made": stamp, "machine": before, "load": f"{before['load']:g} to {machine()['load']:g}"}


def folder(options: argparse.Namespace) -> Cells:
    return {"keys, local folder": part("local_keys", keys=options.keys, work=str(options.work))}


def store(options: argparse.Namespace) -> Cells:
    return {"keys, object store": part("stored_keys", keys=options.keys, latency_s=options.latency_ms / 1000)}


def plans(options: argparse.Namespace) -> Cells:
    shared = {"classes": options.classes, "batch": BATCH}
    few = max(2 * options.classes, options.slots // 50)
    return {
        "plan": part("planned", work=str(options.work / "small"), images=options.images, slots=options.slots,
                     shape=SMALL, **shared),
        "plan, real latents": part("planned", work=str(options.work / "real"), images=few, slots=few, shape=LATENT,
                                   **shared),
    }  # fmt: skip


def samples(options: argparse.Namespace, artifact: str) -> Cells:
    body = {"work": str(options.work / "small"), "artifact": artifact, "batches": options.batches}
    return {"sample": part("sampled", batch_s=options.batch_s, actors=options.actors, ray=not options.no_ray, **body)}


def losses(options: argparse.Namespace) -> Cells:
    """Against what `raydistill plan --losses-per-hour` says, by its simulation."""
    body = {"units": options.units, "unit_s": options.unit_s, "actors": options.workers}
    return {"losses": part("lossy", losses_per_hour=options.losses_per_hour, seed=options.seed, **body)}


def whole_run(options: argparse.Namespace) -> Cells:
    """A run of images of 8 pixels without a VAE to its distilled set; then its command again, twice."""
    source, run, before = options.work / "images", options.work / "run", machine()
    write_images(source, options.encoded, options.classes)
    words = [f"source.path={source}", "source.kind=imagefolder", "source.image_size=8", f"run_dir={run}", "ipc=10",
             "method=random"]  # fmt: skip
    figures: dict[str, Any] = {"images": options.encoded}
    for name in ("first", "again", "once more"):
        start = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", COLD, *job("sample", *words)[1:]],
            cwd=options.work, env=plain_environment(), capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"the run failed:\n{done.stderr}")
        match = re.search(r"peak (\d+)", done.stderr)
        figures[f"{name}, s"] = time.monotonic() - start
        figures[f"{name}, driver, MiB"] = int(match[1]) / 1024 if match else 0
    return {"run": figures | origin(before)}


def write_images(path: Path, count: int, classes: int) -> None:
    """PATH/train/WNID/NUMBER.png, each another shade, and an image a class to test on."""
    from raydistill.sources.images import png

    for split, shades in (("train", range(count)), ("val", range(count, count + classes))):
        for i in shades:
            file = path / split / f"n{i % classes:08d}" / f"{i // classes}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(_shade(png, i))


def _shade(png: Any, i: int) -> bytes:
    import numpy as np

    return png(np.full((8, 8, 3), (i % 251, i // 251 % 251, i // 63001), np.uint8))


def keep(out: Path, cells: Cells) -> None:
    """A file a cell, and the table of all that lie there."""
    out.mkdir(parents=True, exist_ok=True)
    for name, figures in cells.items():
        file = out / f"{re.sub('[^a-z]+', '-', name)}.json"
        file.write_text(json.dumps({"name": name, **figures}, indent=1, sort_keys=False) + "\n")
    lying = [json.loads(file.read_text()) for file in sorted(out.glob("*.json"))]
    text = table(["of", "figure", "value", "CPU, s"], [row for cell in lying for row in rows(cell)])
    (out / "scale.md").write_text(text + "\n")


def rows(cell: Mapping[str, Any]) -> list[list[str]]:
    """A row a figure; of what was timed the CPU seconds beside the wall's."""
    lines = []
    for figure, value in cell.items():
        if figure in ("name", "artifact", "made", "machine") or figure.endswith(", CPU s"):
            continue
        cpu = cell.get(f"{figure.removesuffix(', s')}, CPU s")
        lines.append([cell["name"], figure, _text(value), "" if cpu is None else _text(cpu)])
    return lines


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def main(argv: Sequence[str] | None = None) -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--work", type=Path, help="a new folder; deleted at the end")
    for name, count in (("images", 1_000_000), ("slots", 1_000_000), ("classes", CLASSES), ("keys", 100_000),
                        ("batches", 3000), ("actors", 2), ("encoded", 20_000)):  # fmt: skip
        p.add_argument(f"--{name}", type=int, default=count)
    p.add_argument("--batch-s", type=float, default=0.0, help="what the stand-in takes for a batch, seconds")
    p.add_argument("--units", type=int, default=120, help="of the rehearsal of losses")
    p.add_argument("--unit-s", type=float, default=3.0)
    p.add_argument("--workers", type=int, default=6)
    p.add_argument("--losses-per-hour", type=float, default=120.0, help="of each worker")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--latency-ms", type=float, default=0.0, help="of the object store")
    p.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    p.add_argument("--no-ray", action="store_true", help="sample in this process only, and make no run")
    p.add_argument("--out", type=Path, default=RESULTS.parent / "scale", help="a folder")
    p.add_argument("--child", help=argparse.SUPPRESS)
    options = p.parse_args(argv)
    if options.child:
        import scale_losses
        import scale_parts

        body = json.loads(options.child)
        print(json.dumps({**scale_parts.PARTS, "lossy": scale_losses.lossy}[body.pop("part")](**body)))
        return 0
    if options.work is None:
        p.error("--work DIR, which must be new")
    options.work = options.work.resolve()
    options.work.mkdir(parents=True)
    on_ray = [] if options.no_ray else [name for name in ("losses", "run") if name in options.parts]
    try:
        for name, measure in (("folder", folder), ("store", store)):
            if name in options.parts:
                keep(options.out, measure(options))
        if {"plan", "sample"} & set(options.parts):
            planned = plans(options)
            keep(options.out, planned)
        if "sample" in options.parts:
            keep(options.out, samples(options, planned["plan"]["artifact"]))
        for name in on_ray:
            keep(options.out, {"losses": losses, "run": whole_run}[name](options))
    finally:
        shutil.rmtree(options.work)
    print((options.out / "scale.md").read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
