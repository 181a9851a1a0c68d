"""What tangent guidance costs: against a step of DiT-XL/2, and against the release's D x D eigendecomposition.

    python benchmarks/manifold_speed.py --out benchmarks/results/speed/manifold.json

All in one run on the same threads: tangent guidance for a batch of 32 latents of 4 x 32 x 32 (D = 4096) with 64 real
neighbours each; the release's variant with its cloud of 300 noised points; one step of DiT-XL/2 with classifier-free
guidance (random weights of the published shape; `--dit-batch` samples, scaled to the batch); and the covariance and
eigh that the release computes, for one sample and scaled to the batch.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from raydistill.config import GuidanceConfig, ManifoldConfig
from raydistill.diffusion.loop import Batch
from raydistill.diffusion.prediction import Prediction, log_variance, x0_from_eps
from raydistill.diffusion.schedule import alphas_bar, path
from raydistill.guidance.manifold import Manifold
from raydistill.seeding import NoiseKey

XL = {
    "num_attention_heads": 16, "attention_head_dim": 72, "in_channels": 4, "out_channels": 8, "num_layers": 28,
    "sample_size": 32, "patch_size": 2, "num_embeds_ada_norm": 1000, "norm_type": "ada_norm_zero",
    "attention_bias": True, "activation_fn": "gelu-approximate",
}  # fmt: skip
SCHEDULE = {"num_train_timesteps": 1000, "beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}


def median_s(work: Callable[[], object], repeat: int, sync: Callable[[], None]) -> float:
    """Median seconds of `repeat` calls, after one that is not counted if there are several."""
    seconds = []
    for _ in range(repeat + (repeat > 1)):
        start = time.perf_counter()
        work()
        sync()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[-repeat:])


def scene(batch: int, neighbours: int, shape: tuple[int, ...], device: str) -> tuple[Prediction, Batch]:
    rng = torch.Generator().manual_seed(0)

    def draw(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=rng).to(device)

    step = path(alphas_bar(SCHEDULE), "released", 50)[10]
    x, eps = draw(batch, *shape), draw(batch, *shape)
    pred = Prediction(step, x, eps, x0_from_eps(x, eps, step), log_variance(step, None, eps))
    anchors = draw(batch, *shape)
    keys = [NoiseKey(0, "c", i) for i in range(batch)]
    neighbouring = anchors.unsqueeze(1) + draw(batch, neighbours, *shape)
    return pred, Batch(torch.zeros(batch, dtype=torch.long, device=device), anchors, keys, {"neighbours": neighbouring})


def explicit(pred: Prediction, slots: Batch, k: int = 12, d: int = 3) -> torch.Tensor:
    """One sample as the release does it: the covariance of K points as a D x D matrix, and all its eigenvectors."""
    points = slots.see("neighbours")[0].flatten(1)[:k]
    centred = points - points.mean(0)
    covariance = centred.T @ centred / (k - 1) + 1e-5 * torch.eye(points.shape[1], device=points.device)
    u = torch.linalg.eigh(covariance)[1][:, -d:]
    g = (slots.prototype[0] - pred.x0_hat[0]).flatten()
    return u @ (u.T @ g)


def dit_step(batch: int, device: str, tiny: bool) -> Callable[[], object]:
    from diffusers import DiTTransformer2DModel

    shape = {**XL, **({"num_layers": 1, "num_attention_heads": 2, "sample_size": 8} if tiny else {})}
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    net = DiTTransformer2DModel(**shape).eval().to(device, dtype)
    side = shape["sample_size"]
    x = torch.randn(2 * batch, 4, side, side, device=device, dtype=dtype)
    t = torch.full((2 * batch,), 500, device=device)
    y = torch.zeros(2 * batch, dtype=torch.long, device=device)

    def run() -> object:
        with torch.inference_mode():
            return net(x, timestep=t, class_labels=y).sample

    return run


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--batch", type=int, default=32)
    p.add_argument("--neighbours", type=int, default=64)
    p.add_argument("--repeat", type=int, default=9, help="guidance calls; the median counts")
    p.add_argument("--dit-batch", type=int, default=4, help="samples in the measured DiT-XL/2 step")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    p.add_argument("--tiny", action="store_true", help="sizes that only show that everything runs")
    p.add_argument("--out", type=Path, default=None, help="also write the numbers as JSON")
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    shape = (4, 8, 8) if args.tiny else (4, 32, 32)
    sync = torch.cuda.synchronize if args.device == "cuda" else lambda: None
    pred, slots = scene(args.batch, args.neighbours, shape, args.device)
    config = GuidanceConfig(scale=0.1)
    tangent = Manifold.make(config, "mean", ManifoldConfig())
    released = Manifold.make(config, "mean", ManifoldConfig(variant="normal_correction"))
    with torch.inference_mode():
        cost = median_s(lambda: tangent.delta(pred, slots), args.repeat, sync)
        cloud = median_s(lambda: released.delta(pred, slots), max(1, args.repeat // 3), sync)
        eigen = median_s(lambda: explicit(pred, slots), 1, sync) * args.batch
    step = median_s(dit_step(args.dit_batch, args.device, args.tiny), 1 if args.device == "cpu" else 20, sync)
    step *= args.batch / args.dit_batch
    rows = {
        "tangent projection": cost,
        "release: cloud of 300 noised points, K x K Gram matrix": cloud,
        "DiT-XL/2 step with classifier-free guidance": step,
        "release: D x D covariance and eigh": eigen,
    }
    where = torch.cuda.get_device_name() if args.device == "cuda" else f"CPU, {args.threads} threads"
    print(f"batch {args.batch}, D = {pred.x_t[0].numel()}, {where}\n")
    print("| what | seconds a batch | against tangent projection |\n|---|---|---|")
    for name, seconds in rows.items():
        print(f"| {name} | {seconds:.4g} | {seconds / cost:,.3g} x |")
    print(f"\ntangent projection is {100 * cost / step:.2f} % of the step")
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        body = {"seconds": rows, "batch": args.batch, "where": where, "share_of_step": cost / step}
        args.out.write_text(json.dumps(body, indent=1, sort_keys=True) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
