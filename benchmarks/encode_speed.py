"""Speed of encoding: our encode stage on Ray Data against a plain PyTorch loop over the same JPEGs.

    python benchmarks/encode_speed.py --images IMAGENETTE --vae TAESD --repeat 3

Both sides read the same Parquet files, decode with the same function, encode micro-batches of 32 at 128 px, one thread
a network, and write float16 latents. The loop is one process. Ours is `jobs/encode.py`, once with one VAE actor, for
the cost of an image, and once with an actor a core. Rates are those of the steady state: the loop's without loading,
ours from every actor's first chunk to the last. Ray's start is given apart. The sides take turns.

Wall seconds of one actor flatter us, for decoding runs beside it on another core; CPU seconds, of the driver and every
process below it, do not.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from encode_memory import link_set
from measure import RESULTS, child, commits, inputs, job, machine, medians, save, steady, table, watch


def loop(body: dict[str, Any]) -> None:
    """Encodes every training image in this process and writes the seconds that it took to `out`."""
    import numpy as np
    import pyarrow.parquet as pq
    import torch
    from diffusers import AutoencoderTiny

    from raydistill.sources.images import decode

    torch.set_num_threads(1)
    vae = AutoencoderTiny.from_pretrained(body["vae"], low_cpu_mem_usage=False).float().eval()

    def encode(data: list[bytes]) -> np.ndarray:
        pixels = torch.from_numpy(np.stack([decode(d, body["size"], 10**8) for d in data]))
        x = pixels.permute(0, 3, 1, 2).float().div(127.5).sub(1)
        return (vae.encode(x).latents * vae.config.scaling_factor).half().numpy()

    latents: list[np.ndarray] = []
    labels: list[int] = []
    files = sorted(Path(body["images"]).glob("train-*.parquet"))
    with torch.inference_mode():
        first = next(pq.ParquetFile(files[0]).iter_batches(body["batch"], columns=["image"]))
        encode([i["bytes"] for i in first["image"].to_pylist()])  # warms caches up and is not counted
        wall, cpu = time.perf_counter(), time.process_time()
        for file in files:
            for rows in pq.ParquetFile(file).iter_batches(body["batch"]):
                latents.append(encode([i["bytes"] for i in rows["image"].to_pylist()]))
                labels += rows["label"].to_pylist()
        np.savez(body["out"] + ".npz", latent=np.concatenate(latents), label=np.array(labels))
    spent = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu, "images": len(labels)}
    Path(body["out"]).write_text(json.dumps(spent))


def run_loop(args: argparse.Namespace, data: Path) -> dict[str, float]:
    out = args.work / "encode-loop.json"
    body = {"images": str(data), "vae": str(args.vae.resolve()), "size": args.size, "batch": 32, "out": str(out)}
    watch(child(__file__, **body), args.work / "encode-loop.log")
    spent = json.loads(out.read_text())
    return {f"{k}_s_an_image": spent[f"{k}_s"] / spent["images"] for k in ("wall", "cpu")}


def run_stage(args: argparse.Namespace, data: Path, actors: int) -> dict[str, float]:
    run = args.work / "encode-run"
    shutil.rmtree(run, ignore_errors=True)
    command = job(
        "encode", "source.kind=parquet", *inputs(source=data, vae=args.vae), f"source.image_size={args.size}",
        f"encode.chunk={args.chunk}", "encode.batch=32", f"encode.actors={actors}", f"run_dir={run}", *args.overrides
    )  # fmt: skip
    done = watch(command, args.work / "encode.log")
    return steady(done, commits(run / "latents"), actors).row()


def main(argv: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--child", help=argparse.SUPPRESS)
    p.add_argument("--images", type=Path, help="Parquet set of JPEGs in the Hugging Face image layout")
    p.add_argument("--vae", type=Path, help="TAESD, a diffusers directory")
    p.add_argument("--count", type=int, default=5000, help="images (whole files are taken, again if need be)")
    p.add_argument("--size", type=int, default=128, help="pixels a side")
    p.add_argument("--chunk", type=int, default=256, help="encode.chunk of ours")
    p.add_argument("--work", type=Path, default=Path("runs/speed"))
    p.add_argument("--repeat", type=int, default=3, help="times each side is measured, in turns")
    p.add_argument("--actors", type=int, nargs="+", default=sorted({1, os.cpu_count() or 1}), help="sizes of our pool")
    p.add_argument("--out", type=Path, default=RESULTS / "encode.json")
    p.add_argument("overrides", nargs="*", help="KEY=VALUE for our side, after --")
    args = p.parse_args(argv)
    if args.child:
        loop(json.loads(args.child))
        return 0
    args.work = args.work.resolve()
    args.work.mkdir(parents=True, exist_ok=True)
    data = args.work / "encode-images"
    shutil.rmtree(data, ignore_errors=True)
    before, count = machine(), link_set(args.images, args.count, data)
    sides: dict[str, list[dict[str, float]]] = {}
    for _ in range(args.repeat):
        sides.setdefault("loop, 1 thread", []).append(run_loop(args, data))
        for n in args.actors:
            sides.setdefault(f"raydistill, {n} actor{'s' * (n > 1)}", []).append(run_stage(args, data, n))
    middle = {name: medians(rows) for name, rows in sides.items()}
    plain = middle["loop, 1 thread"]
    rows = []
    for name, m in middle.items():
        wall, cpu = (plain[k] / m[k] for k in ("wall_s_an_image", "cpu_s_an_image"))
        start = f"{m['first_commit_s']:.0f}" if "first_commit_s" in m else ""
        whole = f"{m['whole_command_s']:.0f}" if "whole_command_s" in m else ""
        rows.append([name, f"{1 / m['wall_s_an_image']:.1f}", f"{1000 * m['cpu_s_an_image']:.1f}", f"{wall:.2f}",
                     f"{cpu:.2f}", start, whole])  # fmt: skip
    head = [f"{count} JPEGs to {args.size} px", "images/s", "CPU ms an image", "rate / loop", "per core / loop",
            "first commit, s", "command, s"]  # fmt: skip
    save(args.out, {"machine": before, "sides": sides, "medians": middle, "images": count, "size": args.size,
                    "chunk": args.chunk}, table(head, rows))  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
