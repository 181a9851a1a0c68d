"""What learnability guidance costs: seconds against an unguided step, and bytes that its gradients hold.

    python benchmarks/learnability_speed.py --vae DIR --generator DIR --decoder DIR
    python benchmarks/learnability_speed.py --sd --batch 1      the decoder of Stable Diffusion's VAE at 256 px

All in one run on the same threads: a step of the generator with classifier-free guidance, and the guidance of the same
batch through the VAE's decoder, with checkpointing, and through a tiny decoder if one is given; two untrained convnets
judge. Bytes are counted, not measured: the tensors that autograd keeps for the way back, on any device the same. --sd
has random weights of the published shape and no generator.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import safetensors.torch
import torch
from manifold_speed import median_s
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from raydistill import registry
from raydistill.config import GuidanceConfig
from raydistill.diffusion.loop import Batch
from raydistill.diffusion.prediction import Prediction, log_variance, x0_from_eps
from raydistill.diffusion.schedule import Step, alphas_bar, path
from raydistill.guidance.learnability import CURRENT, REFERENCE, Learnability, LearnabilityConfig
from raydistill.guidance.networks import Networks
from raydistill.identity import canonical
from raydistill.models.checkpoint import packaged
from raydistill.models.classifier import HEADER, Classifier, ClassifierSpec
from raydistill.models.denoiser import Denoiser, GeneratorSpec
from raydistill.models.device import Placement
from raydistill.models.vae import Vae, VaeSpec
from raydistill.seeding import NoiseKey
from raydistill.stages.evaluation.checkpoint import described

SD = {"block_out_channels": (128, 256, 512, 512), "latent_channels": 4, "layers_per_block": 2, "sample_size": 256}
SCHEDULE = {"num_train_timesteps": 1000, "beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}


def sd_vae(folder: Path, tiny: bool) -> str:
    """Untrained, in the shape of Stable Diffusion's."""
    from diffusers import AutoencoderKL

    shape = {**SD, **({"block_out_channels": (32,) * 4, "layers_per_block": 1} if tiny else {})}
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    AutoencoderKL(scaling_factor=0.18215, **shape, **blocks).save_pretrained(folder)
    return str(folder)


def student(folder: Path, class_ids: list[str], size: int, width: int, at: Placement) -> Classifier:
    """An untrained convnet as a classifier."""
    net = registry.get("student", "convnet")(len(class_ids), size, width)
    about = described("convnet", width, class_ids, size, "0" * 16)
    safetensors.torch.save_file(net.state_dict(), folder / "student.safetensors", {HEADER: canonical(about)})
    return Classifier(ClassifierSpec(str(folder / "student.safetensors")), at)


def scene(batch: int, shape: tuple[int, ...], class_id: str, device: str) -> tuple[Prediction, Batch]:
    rng = torch.Generator().manual_seed(0)
    x, eps = (torch.randn((batch, *shape), generator=rng).to(device) for _ in range(2))
    step = path(alphas_bar(SCHEDULE), "released", 50)[19]
    pred = Prediction(step, x, eps, x0_from_eps(x, eps, step), log_variance(step, None, eps))
    keys = [NoiseKey(0, class_id, i) for i in range(batch)]
    return pred, Batch(torch.zeros(batch, dtype=torch.long, device=device), torch.zeros_like(x), keys)


def held(guidance: Learnability, pred: Prediction, slots: Batch) -> int:
    """Bytes that autograd keeps for the way back of one micro-batch, each storage once."""
    kept: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        guidance.score(pred.x0_hat, slots)
    return sum(kept.values())


def main(argv: Sequence[str] | None = None) -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--vae", default=packaged("vae"))
    p.add_argument("--generator", default=packaged("generator"))
    p.add_argument("--decoder", default=None, help="a tiny VAE that decodes the same latents")
    p.add_argument("--sd", action="store_true", help="Stable Diffusion's decoder, without a generator")
    p.add_argument("--image-size", type=int, default=None)
    p.add_argument("--batch", type=int, default=8)
    p.add_argument("--width", type=int, default=64, help="of the convnets")
    p.add_argument("--repeat", type=int, default=5)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    p.add_argument("--tiny", action="store_true", help="sizes that only show that everything runs")
    p.add_argument("--out", type=Path, default=None, help="also write the numbers as JSON")
    args = p.parse_args(argv)
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    at = Placement(device, torch.bfloat16 if args.device == "cuda" else torch.float32, args.device)
    sync = torch.cuda.synchronize if args.device == "cuda" else lambda: None
    size = args.image_size or (64 if args.tiny else 256 if args.sd else 32)
    rows: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        spec = VaeSpec(sd_vae(Path(folder) / "vae", args.tiny) if args.sd else args.vae)
        generator = None if args.sd else GeneratorSpec(args.generator)
        class_ids = ["c", "d"] if generator is None else list(generator.class_ids)
        judge = student(Path(folder), class_ids, size, args.width, at)
        pred, slots = scene(args.batch, spec.latent_shape(size), class_ids[0], args.device)
        if generator is not None:
            denoise = Denoiser(generator, at, cfg_scale=2.0, cfg_channels="all")
            step = generator.steps("released", 50)[19]
            rows["unguided step"] = median_s(lambda: plain(denoise, pred.x_t, step, slots), args.repeat, sync)
        decoders = {"pixel": (spec, False), "pixel, checkpointing": (spec, True)}
        decoders |= {"tiny decoder": (VaeSpec(args.decoder), False)} if args.decoder else {}
        memory = {}
        for name, (decoder, checkpointing) in decoders.items():
            settings = LearnabilityConfig(micro_batch=args.batch, checkpointing=checkpointing)
            guidance = Learnability(GuidanceConfig(), "epsilon", settings)
            guidance.bind(Networks(1.0, class_ids, Vae(decoder, at), {CURRENT: judge, REFERENCE: judge}))
            rows[name] = median_s(lambda g=guidance: g.delta(pred, slots), args.repeat, sync)
            memory[name] = held(guidance, pred, slots)
    report(rows, memory, args)
    return 0


def plain(denoise: Denoiser, x: Tensor, step: Step, slots: Batch) -> object:
    with torch.inference_mode():
        return denoise(x, step, slots.class_index)


def report(rows: dict[str, float], memory: dict[str, int], args: argparse.Namespace) -> None:
    base = rows.get("unguided step")
    where = torch.cuda.get_device_name() if args.device == "cuda" else f"CPU, {args.threads} threads"
    print(f"batch {args.batch}, {where}\n\n| what | seconds a batch | guided / unguided | MB held an image |")
    print("|---|---|---|---|")
    for name, seconds in rows.items():
        ratio = f"{(base + seconds) / base:.2f} x" if base and name in memory else ""
        share = f"{memory[name] / args.batch / 1e6:,.1f}" if name in memory else ""
        print(f"| {name} | {seconds:.4g} | {ratio} | {share} |")
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        body = {"seconds": rows, "bytes": memory, "batch": args.batch, "where": where}
        args.out.write_text(json.dumps(body, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    sys.exit(main())
