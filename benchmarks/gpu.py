"""Speed of the networks on a GPU, against its peak: VAE encoding at 256 px, DiT-XL/2 sampling of 50 guided steps.

    python benchmarks/gpu.py                       # needs a CUDA device; says so and stops where there is none
    python benchmarks/gpu.py --device cpu --tiny   # the same code on networks of no size: does it run?

Weights are random and of the published shapes (AutoencoderKL of Stable Diffusion, DiT-XL/2), written to a temporary
folder and loaded by the package's own code; images go through `Vae.encode`, samples through the package's loop with
mode guidance, both with their copies to and from the host. Neither Ray nor data are needed, diffusers is. Each is
measured as it is and compiled, with and without CUDA graphs. FLOPs are counted from shapes (2 a multiply-add), the
share is of the dense bfloat16 peak of the vendor's sheet. Aims, on an H200: 1,600 images/s encoded, 20 sampled.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

XL = {"num_attention_heads": 16, "attention_head_dim": 72, "num_layers": 28, "sample_size": 32}
TINY = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 1, "sample_size": 8}
WIDTHS = {False: [128, 256, 512, 512], True: [8, 8]}
MODES = {"as it is": None, "compiled": "default", "compiled, CUDA graphs": "reduce-overhead"}


def vae_of(tiny: bool) -> Any:
    from diffusers import AutoencoderKL

    widths = WIDTHS[tiny]
    return AutoencoderKL(
        block_out_channels=widths,
        down_block_types=["DownEncoderBlock2D"] * len(widths),
        up_block_types=["UpDecoderBlock2D"] * len(widths),
        layers_per_block=1 if tiny else 2,
        norm_num_groups=8 if tiny else 32,
        latent_channels=4,
        scaling_factor=0.18215,
    )


def dit_of(tiny: bool) -> Any:
    from diffusers import DiTTransformer2DModel

    return DiTTransformer2DModel(in_channels=4, out_channels=8, num_embeds_ada_norm=1000, **(TINY if tiny else XL))


def write(folder: Path, tiny: bool) -> None:
    """vae/ and generator/ as the package loads them. Random numbers in place of the zeros that training starts from."""
    vae_of(tiny).save_pretrained(folder / "vae")
    net = dit_of(tiny)
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.02)
    net.save_pretrained(folder / "generator" / "transformer")
    classes = net.config.num_embeds_ada_norm
    known = {"prediction": "epsilon", "latent_scale": 1.0, "class_ids": [str(i) for i in range(classes)],
             "null_class_index": classes, "learned_variance": True}  # fmt: skip
    betas = {"num_train_timesteps": 1000, "beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}
    (folder / "generator" / "training.json").write_text(json.dumps(known))
    (folder / "generator" / "scheduler").mkdir()
    (folder / "generator" / "scheduler" / "scheduler_config.json").write_text(json.dumps(betas))


def flops(tiny: bool) -> tuple[float, float]:
    """FLOPs of encoding an image and of one forward pass of the generator for one sample, from shapes alone."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        vae, net = vae_of(tiny), dit_of(tiny)
        side = net.config.sample_size
        pixels, x = torch.empty(1, 3, *[side * vae_scale(tiny)] * 2), torch.empty(1, 4, side, side)
        t, y = torch.zeros(1, dtype=torch.long), torch.zeros(1, dtype=torch.long)
        with FlopCounterMode(display=False) as encode, torch.no_grad():
            vae.encode(pixels)
        with FlopCounterMode(display=False) as forward, torch.no_grad():
            net.eval()(x, timestep=t, class_labels=y)
    return encode.get_total_flops(), forward.get_total_flops()


def vae_scale(tiny: bool) -> int:
    return 2 ** (len(WIDTHS[tiny]) - 1)


def seconds(run: Callable[[], object], repeat: int) -> float:
    """Median seconds of a run, everything on the device finished; the first two, which compile, are not counted."""
    spent = []
    for _ in range(repeat + 2):
        start = time.perf_counter()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        spent.append(time.perf_counter() - start)
    return statistics.median(spent[2:])


def measure(args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """A row a network and mode: images a second."""
    from raydistill import registry
    from raydistill.config import GuidanceConfig, SampleConfig
    from raydistill.diffusion.loop import Batch, sample
    from raydistill.diffusion.schedule import path
    from raydistill.models.denoiser import Denoiser, GeneratorSpec
    from raydistill.models.device import placement
    from raydistill.models.vae import Vae, VaeSpec
    from raydistill.seeding import NoiseKey

    at = placement(SampleConfig(device=args.device))
    spec, rows = GeneratorSpec(str(folder / "generator")), []
    side = spec.latent_shape[1]
    pixels = torch.randint(256, (args.encode_batch, *[side * vae_scale(args.tiny)] * 2, 3), dtype=torch.uint8)
    steps = path(spec.alphas_bar, "released", args.steps)
    ddpm = registry.get("sampler", "ddpm")()
    guide = registry.get("guidance", "mode")(GuidanceConfig(), "mean")
    slots = Batch(
        torch.arange(args.sample_batch, device=at.device) % len(spec.class_ids),
        torch.randn(args.sample_batch, *spec.latent_shape, device=at.device),
        [NoiseKey(0, "c", i) for i in range(args.sample_batch)],
    )
    for name in args.modes:
        torch.compiler.reset()
        vae, denoiser = Vae(VaeSpec(str(folder / "vae")), at), Denoiser(spec, at, 4.0, "first3")
        if MODES[name] is not None:
            vae.net.encoder = torch.compile(vae.net.encoder, mode=MODES[name])
            denoiser.net = torch.compile(denoiser.net, mode=MODES[name])
        spent = seconds(lambda: vae.encode(pixels), args.repeat)  # noqa: B023
        rows.append({"what": "VAE encode", "mode": name, "batch": args.encode_batch, "rate": len(pixels) / spent})
        with torch.inference_mode():
            spent = seconds(lambda: sample(denoiser, steps, ddpm, guide, slots).cpu(), args.repeat)  # noqa: B023
        rows.append({"what": "DiT sample", "mode": name, "batch": args.sample_batch, "rate": args.sample_batch / spent})
    return rows


def main(argv: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    p.add_argument("--tiny", action="store_true", help="networks of no size, to see that the code runs")
    p.add_argument("--modes", nargs="+", choices=list(MODES), default=None, help="default: all; on the CPU the first")
    p.add_argument("--encode-batch", type=int, default=128)
    p.add_argument("--sample-batch", type=int, default=128)
    p.add_argument("--steps", type=int, default=50)
    p.add_argument("--repeat", type=int, default=5)
    p.add_argument("--peak", type=float, default=None, help="FLOP/s of the device; default: by its name")
    p.add_argument("--out", type=Path, default=None, help="JSON file to write")
    args = p.parse_args(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        print("no CUDA device is visible here: nothing was measured (--device cpu --tiny tries the code)")
        return 0
    from raydistill.planning.rates import PEAKS  # what `plan --rates` reads the record by

    args.modes = args.modes or list(MODES)[: 1 if args.device == "cpu" else None]
    name = torch.cuda.get_device_name() if args.device == "cuda" else "CPU"
    peak = args.peak or next((half for k, (half, _) in PEAKS.items() if k in name), None)
    encode, forward = flops(args.tiny)
    work = {"VAE encode": encode, "DiT sample": forward * 2 * args.steps}
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), args.tiny)
        rows = measure(args, Path(folder))
    print(f"{name}, torch {torch.__version__}; peak assumed: {f'{peak / 1e12:.0f} TFLOP/s' if peak else 'unknown'}\n")
    print("| network | mode | batch | images/s | GFLOP an image | share of peak |\n|---|---|---|---|---|---|")
    for r in rows:
        r["flop_an_image"], r["share"] = work[r["what"]], r["rate"] * work[r["what"]] / peak if peak else None
        share = f"{100 * r['share']:.0f} %" if peak else ""
        each = f"{r['rate']:.1f} | {r['flop_an_image'] / 1e9:.1f} | {share}"
        print(f"| {r['what']} | {r['mode']} | {r['batch']} | {each} |")
    if args.out:
        body = {"device": name, "torch": torch.__version__, "peak": peak, "rows": rows}
        args.out.write_text(json.dumps(body, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
