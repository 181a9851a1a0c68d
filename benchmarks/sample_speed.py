"""Speed of sampling: our sample stage against a loop that makes one image at a time, as the released samplers do.

    python benchmarks/sample_speed.py --images IMAGENETTE --vae TAESD --generator NETTE128_DIT --repeat 3

Both sides make images of the preset nette128 by MGD3 (50 DDPM steps, classifier-free guidance) with the same weights,
from noise to PNG. The loop is the released samplers' (batch 1, doubled for guidance, its second half overwritten by the
first before each call), on one thread and on every core; ours is `jobs/sample.py`, with as many workers as cores. Its
rate is that of the steady state, from every worker's first batch to the end; loading and Ray's start are given apart,
and left out of the loop's numbers too. The sides take turns. The images are encoded once and kept in --work.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from measure import RESULTS, child, commits, inputs, job, machine, medians, save, steady, table, watch

# ---- the loop, a process of its own ----------------------------------------------------------------------------------


def loop(body: dict[str, Any]) -> None:
    """Makes `count` images one at a time with diffusers' networks as they are, and writes their times to `out`."""
    import numpy as np
    import torch
    from diffusers import AutoencoderTiny, DiTTransformer2DModel
    from PIL import Image

    torch.set_num_threads(body["threads"])
    generator = Path(body["generator"])
    training = json.loads((generator / "training.json").read_text())
    scheduler = json.loads((generator / "scheduler" / "scheduler_config.json").read_text())
    null, scale = training["null_class_index"], training["latent_scale"]
    net = DiTTransformer2DModel.from_pretrained(generator / "transformer", low_cpu_mem_usage=False).float().eval()
    vae = AutoencoderTiny.from_pretrained(body["vae"], low_cpu_mem_usage=False).float().eval()
    total, steps = scheduler["num_train_timesteps"], body["steps"]
    betas = np.linspace(scheduler["beta_start"], scheduler["beta_end"], total)
    times = np.linspace(0, total - 1, steps).round().astype(int)
    alpha_bar = np.cumprod(1 - betas)[times]
    previous = np.append(1.0, alpha_bar[:-1])
    beta = 1 - alpha_bar / previous
    variance = beta * (1 - previous) / (1 - alpha_bar)

    def image(label: int, mode: torch.Tensor) -> bytes:
        x = torch.randn(2, *mode.shape)
        y = torch.tensor([label, null])
        for i in reversed(range(steps)):
            half = x[:1]
            out = net(torch.cat([half, half]), timestep=torch.tensor([times[i]] * 2), class_labels=y).sample
            cond, uncond = out[:, :4].split(1)
            guided = uncond + body["cfg_scale"] * (cond - uncond)
            eps = torch.cat([guided, guided])
            x0 = (x - (1 - alpha_bar[i]) ** 0.5 * eps) / alpha_bar[i] ** 0.5
            mean = previous[i] ** 0.5 * beta[i] / (1 - alpha_bar[i]) * x0
            mean = mean + (alpha_bar[i] / previous[i]) ** 0.5 * (1 - previous[i]) / (1 - alpha_bar[i]) * x
            if i > steps // 2:
                mean = mean + body["guidance_scale"] * variance[i] ** 0.5 * (mode - x0)
            x = mean + (variance[i] ** 0.5 * torch.randn_like(x) if i > 0 else 0)
        pixels = vae.decode(x[:1].float() / scale / vae.config.scaling_factor).sample
        bytes_ = pixels[0].add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
        sink = io.BytesIO()
        Image.fromarray(bytes_).save(sink, "PNG")
        return sink.getvalue()

    torch.manual_seed(0)
    timings = []
    with torch.inference_mode():
        for n in range(body["count"] + 1):  # the first warms caches up and is not counted
            wall, cpu = time.perf_counter(), time.process_time()
            data = image(n % null, torch.randn(4, net.config.sample_size, net.config.sample_size))
            timings.append(
                {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu, "bytes": len(data)}
            )
    Path(body["out"]).write_text(json.dumps(timings[1:]))


def run_loop(args: argparse.Namespace, threads: int) -> dict[str, float]:
    """Mean seconds an image."""
    out = args.work / "loop.json"
    command = child(
        __file__,
        vae=str(args.vae.resolve()),
        generator=str(args.generator.resolve()),
        threads=threads,
        count=args.loop_images,
        steps=args.steps,
        cfg_scale=3.0,
        guidance_scale=0.1,
        out=str(out),
    )
    watch(command, args.work / "loop.log")
    timings = json.loads(out.read_text())
    return {f"{k}_s_an_image": sum(m[f"{k}_s"] for m in timings) / len(timings) for k in ("wall", "cpu")}


# ---- ours ------------------------------------------------------------------------------------------------------------


def overrides(args: argparse.Namespace) -> list[str]:
    where = [f"run_dir={args.work}/run", f"artifact_dir={args.work}/artifacts"]
    return [*inputs(source=args.images, vae=args.vae, generator=args.generator), *where, f"ipc={args.ipc}",
            "evaluate.baselines=[]", f"sampler.steps={args.steps}", *args.overrides]  # fmt: skip


def prepare(args: argparse.Namespace) -> None:
    """Encodes and clusters once; what is there already is found."""
    watch(job("cluster", "--config", "nette128", *overrides(args)), args.work / "prepare.log")


def run_stage(args: argparse.Namespace, actors: int) -> dict[str, float]:
    """The sample stage anew, everything above it found finished."""
    shutil.rmtree(args.work / "artifacts" / "syntheses", ignore_errors=True)
    command = job("sample", "--config", "nette128", *overrides(args), f"sample.actors={actors}")
    done = watch(command, args.work / "sample.log")
    return steady(done, commits(args.work / "artifacts" / "syntheses"), actors).row()


def main(argv: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--child", help=argparse.SUPPRESS)
    p.add_argument("--images", type=Path, help="Parquet set of ImageNette JPEGs")
    p.add_argument("--vae", type=Path, help="TAESD, a diffusers directory")
    p.add_argument("--generator", type=Path, help="a DiT for 16x16x4 latents, with training.json")
    p.add_argument("--work", type=Path, default=Path("runs/speed"), help="where runs go; encoded images are kept there")
    p.add_argument("--repeat", type=int, default=3, help="times each side is measured, in turns")
    p.add_argument("--ipc", type=int, default=16, help="images a class of ours; 10 classes, 20 images a batch")
    p.add_argument("--loop-images", type=int, default=10, help="images of the loop a turn")
    p.add_argument("--threads", type=int, nargs="+", default=sorted({1, os.cpu_count() or 1}), help="of the loop")
    p.add_argument("--steps", type=int, default=50, help="denoising steps of both sides")
    p.add_argument("--actors", type=int, default=os.cpu_count() or 1, help="workers of ours")
    p.add_argument("--out", type=Path, default=RESULTS / "sample.json")
    p.add_argument("overrides", nargs="*", help="KEY=VALUE for our side, after --")
    args = p.parse_args(argv)
    if args.child:
        loop(json.loads(args.child))
        return 0
    args.work = args.work.resolve()
    args.work.mkdir(parents=True, exist_ok=True)
    before = machine()
    prepare(args)
    sides: dict[str, list[dict[str, float]]] = {}
    for _ in range(args.repeat):
        for threads in args.threads:
            sides.setdefault(f"loop, {threads} thread{'s' * (threads > 1)}", []).append(run_loop(args, threads))
        sides.setdefault(f"raydistill, {args.actors} actors", []).append(run_stage(args, args.actors))
    middle = {name: medians(rows) for name, rows in sides.items()}
    *loops, ours = middle.values()
    ratio = {k: min(m[k] for m in loops) / ours[k] for k in ("wall_s_an_image", "cpu_s_an_image")}
    rows = [[name, *(f"{m[k]:.3f}" for k in ratio)] for name, m in middle.items()]
    text = table(["one image of 128 px, 50 steps", "wall s", "CPU s"], rows)
    text += f"\n\nraydistill against the better loop: {ratio['wall_s_an_image']:.2f} times as fast (wall), "
    text += f"{ratio['cpu_s_an_image']:.2f} times (CPU). First batch after {ours['first_commit_s']:.0f} s; "
    text += f"{args.ipc * 10} images in {ours['whole_command_s']:.0f} s with start-up."
    save(args.out, {"machine": before, "sides": sides, "medians": middle, "ratio": ratio, "ipc": args.ipc,
                    "steps": args.steps, "loop_images": args.loop_images}, text)  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
