"""What learnability guidance costs: seconds against an unguided step, and bytes that its gradients hold.

    python benchmarks/learnability_speed.py --vae DIR --generator DIR --decoder DIR --image-size 128 --seen 64
    python benchmarks/learnability_speed.py --sd --batch 1      the decoder of Stable Diffusion's VAE at 256 px
    python benchmarks/learnability_speed.py --count             its bytes, and DiT-XL/2's: of these nothing is computed

All in one run on the same threads: a step of the generator with classifier-free guidance, and the guidance of the same
batch through the VAE's decoder, with checkpointing, through a tiny decoder (of untrained weights if none is given), by
classifiers of latents, of half a side, and with gradients through the generator; two untrained convnets judge. Wall
seconds suffer from whatever else the machine does, CPU seconds hardly: the ratio is of these, on a GPU of the wall.
Bytes are counted, not measured: the tensors that autograd keeps for the way back, on any device the same. Where
guidance acts at every nth step, the ratio is the mean over the steps of its window. --sd has random weights of the
published shape, no generator.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from diffusers import DiTTransformer2DModel
from measure import machine, save, table
from torch import Tensor, nn

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
from raydistill.models.denoiser import Denoiser, GeneratorSpec, network
from raydistill.models.device import Placement, quiet_libraries
from raydistill.models.latent_classifier import LatentClassifier, LatentClassifierSpec, LatentNet
from raydistill.models.vae import Vae, VaeSpec
from raydistill.planning.networks import DIT_XL
from raydistill.seeding import NoiseKey
from raydistill.stages.evaluation.checkpoint import described
from raydistill.store.artifact import Artifact
from raydistill.store.location import Location
from raydistill.store.sealed import Sealed

SD = {"block_out_channels": (128, 256, 512, 512), "latent_channels": 4, "layers_per_block": 2, "sample_size": 256}
BLOCKS = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
SCHEDULE = {"num_train_timesteps": 1000, "beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}


def sd_vae(folder: Path, tiny: bool) -> str:
    """Untrained, in the shape of Stable Diffusion's."""
    from diffusers import AutoencoderKL

    shape = {**SD, **({"block_out_channels": (32,) * 4, "layers_per_block": 1} if tiny else {})}
    AutoencoderKL(scaling_factor=0.18215, **shape, **BLOCKS).save_pretrained(folder)
    return str(folder)


def tiny_vae(folder: Path, levels: int, channels: int, width: int) -> str:
    """An untrained decoder of latents of so many channels, of as many levels as the VAE."""
    from diffusers import AutoencoderTiny

    widths, depths = (width,) * levels, (*((3,) * (levels - 1)), 1)
    vae = AutoencoderTiny(
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        num_encoder_blocks=depths[::-1],
        num_decoder_blocks=depths,
        latent_channels=channels,
    )
    vae.save_pretrained(folder)
    return str(folder)


def latent_judge(folder: Path, class_ids: list[str], shape: tuple[int, ...], width: int, at: Placement) -> Any:
    """An untrained classifier of latents."""
    artifact = Artifact(Location.of(str(folder)), "classifiers", "untrained")
    body = safetensors.torch.save(LatentNet(len(class_ids), shape, width).state_dict())
    artifact.commit("judge", body, rows=1, device=at.kind, ext="safetensors")
    sealed = Sealed(artifact, artifact.seal(["judge"]))
    return LatentClassifier(LatentClassifierSpec(sealed, tuple(class_ids), shape, width, CURRENT), at)


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


def counted(size: int, width: int, checkpointing: bool, dtype: torch.dtype) -> tuple[int, int]:
    """Bytes that autograd keeps of an image through Stable Diffusion's decoder and two convnets, and those of weights
    among them."""
    from diffusers import AutoencoderKL

    with torch.device("meta"):
        vae = AutoencoderKL(**SD, **BLOCKS).eval().requires_grad_(False).to(dtype)
        judge = registry.get("student", "convnet")(10, size, width).eval().requires_grad_(False).to(dtype)
        if checkpointing:
            vae.enable_gradient_checkpointing()
        z = torch.zeros(1, 4, size // 8, size // 8, dtype=dtype, requires_grad=True)

        def forward() -> None:
            image = vae.decode(z).sample
            judge(image).sum() + judge(image).sum()

        return saved(forward, [vae, judge])


def counted_through(size: int, dtype: torch.dtype) -> tuple[int, int]:
    """As `counted`, of a latent through DiT-XL/2 with classifier-free guidance: with the class, and without."""
    quiet_libraries()
    with torch.device("meta"):
        net = DiTTransformer2DModel.from_config(DIT_XL).eval().requires_grad_(False).to(dtype)
        x = torch.zeros(1, 4, size // 8, size // 8, dtype=dtype, requires_grad=True)
        index = torch.zeros(2, dtype=torch.long)
        return saved(lambda: net(torch.cat([x, x]), timestep=index, class_labels=index).sample.sum(), [net])


def saved(forward: Callable[[], object], nets: Sequence[nn.Module]) -> tuple[int, int]:
    """Bytes that autograd keeps of `forward`, each storage once, and those of the weights of `nets` among them."""
    kept: dict[int, Tensor] = {}

    def pack(t: Tensor) -> Tensor:
        kept[t.untyped_storage()._cdata] = t
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        forward()
    weights = {p.untyped_storage()._cdata for net in nets for p in net.parameters()}
    sizes = {key: t.untyped_storage().nbytes() for key, t in kept.items()}
    return sum(sizes.values()), sum(n for key, n in sizes.items() if key in weights)


def count(size: int, width: int) -> None:
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        kinds = {name: counted(size, width, False, dtype), f"{name}, checkpointing": counted(size, width, True, dtype)}
        kinds[f"{name}, beside it through_denoiser"] = counted_through(size, dtype)
        for kind, (whole, weights) in kinds.items():
            rows.append([kind, f"{(whole - weights) / 1e6:,.0f}", f"{weights / 1e6:,.0f}"])
    print(table([f"{size} px", "MB held an image", "MB of weights held"], rows))


def held(guidance: Learnability, pred: Prediction, slots: Batch) -> int:
    """Bytes that autograd keeps for the way back of one micro-batch, each storage once."""
    kept: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        through = guidance.settings.through_denoiser
        guidance.score_through(pred, slots) if through else guidance.score(pred.x0_hat, slots)
    return sum(kept.values())


def main(argv: Sequence[str] | None = None) -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--vae", default=packaged("vae"))
    p.add_argument("--generator", default=packaged("generator"))
    p.add_argument("--decoder", default=None, help="a tiny VAE that decodes the same latents")
    p.add_argument("--sd", action="store_true", help="Stable Diffusion's decoder, without a generator")
    p.add_argument(
        "--count",
        action="store_true",
        help="count bytes at the size of --sd and DiT-XL/2, compute nothing",
    )
    p.add_argument("--image-size", type=int, default=None)
    p.add_argument("--seen", type=int, default=None, help="pixels a side that the convnets see; default: the image's")
    p.add_argument("--batch", type=int, default=8)
    p.add_argument("--width", type=int, default=64, help="of the convnets")
    p.add_argument("--repeat", type=int, default=5)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    p.add_argument("--tiny", action="store_true", help="sizes that only show that everything runs")
    p.add_argument("--out", type=Path, default=None, help="also write NAME.json and NAME.md")
    args = p.parse_args(argv)
    if args.count:
        count(args.image_size or 256, args.width)
        return 0
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    at = Placement(device, torch.bfloat16 if args.device == "cuda" else torch.float32, args.device)
    sync = torch.cuda.synchronize if args.device == "cuda" else lambda: None
    size = args.image_size or (64 if args.tiny else 256 if args.sd else 32)
    rows: dict[str, tuple[float, float]] = {}
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        spec = VaeSpec(sd_vae(Path(folder) / "vae", args.tiny) if args.sd else args.vae)
        generator = None if args.sd else GeneratorSpec(args.generator)
        class_ids = ["c", "d"] if generator is None else list(generator.class_ids)
        judge = student(Path(folder), class_ids, args.seen or size, args.width, at)
        pred, slots = scene(args.batch, spec.latent_shape(size), class_ids[0], args.device)
        if generator is not None:
            denoise = Denoiser(generator, at, cfg_scale=2.0, cfg_channels="all")
            step = generator.steps("released", 50)[19]
            rows["unguided step"] = median(lambda: plain(denoise, pred.x_t, step, slots), args.repeat, sync)
            denoise.net = network(generator, at, differentiable=True)
        vae, levels = Vae(spec, at), spec.downscale.bit_length()
        tiny = args.decoder or tiny_vae(Path(folder) / "tiny", levels, spec.channels, 64 if args.sd else 16)
        latent = latent_judge(Path(folder) / "latent", class_ids, spec.latent_shape(size), args.width, at)
        kinds = {
            "pixel": (vae, judge, {}),
            "pixel, checkpointing": (vae, judge, {"checkpointing": True}),
            "tiny decoder": (Vae(VaeSpec(tiny), at), judge, {}),
            "latent": (vae, latent, {"space": "latent"}),
            "pixel, every 6th step": (vae, judge, {"every": 6}),
            "pixel, half a side": (vae, judge, {"shrink": 2}),
            "pixel, half a side, every 6th step": (vae, judge, {"shrink": 2, "every": 6}),
            "tiny decoder, every 4th step": (Vae(VaeSpec(tiny), at), judge, {"every": 4}),
        }
        if generator is not None:
            kinds["pixel, through the generator"] = (vae, judge, {"through_denoiser": True})
            kinds["latent, through the generator"] = (vae, latent, {"space": "latent", "through_denoiser": True})
        memory, shares = {}, {}
        for name, (decoder, judges, more) in kinds.items():
            settings = LearnabilityConfig(micro_batch=args.batch, **more)
            guidance = Learnability(GuidanceConfig(), "epsilon", settings)
            shares[name] = 1 / guidance.every
            roles = {CURRENT: judges, REFERENCE: judges}
            differentiable = None if generator is None else denoise
            guidance.bind(Networks(1.0, class_ids, decoder, roles, differentiable))
            rows[name] = median(lambda g=guidance: g.delta(pred, slots), args.repeat, sync)
            memory[name] = held(guidance, pred, slots)
    report(rows, memory, shares, load, args)
    return 0


def plain(denoise: Denoiser, x: Tensor, step: Step, slots: Batch) -> object:
    with torch.inference_mode():
        return denoise(x, step, slots.class_index)


def median(call: Callable[[], object], repeat: int, sync: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds, after a first call that is not counted."""
    call()
    wall, cpu = [], []
    for _ in range(repeat):
        sync()
        began, spent = time.perf_counter(), time.process_time()
        call()
        sync()
        wall.append(time.perf_counter() - began)
        cpu.append(time.process_time() - spent)
    return statistics.median(wall), statistics.median(cpu)


def report(
    rows: dict[str, tuple[float, float]],
    memory: dict[str, int],
    shares: dict[str, float],
    load: float,
    args: argparse.Namespace,
) -> None:
    """`shares`: at how many of the steps of its window each acts."""
    base = rows.get("unguided step")
    where = torch.cuda.get_device_name() if args.device == "cuda" else f"CPU, {args.threads} threads"
    kind = 0 if args.device == "cuda" else 1
    cells = []
    for name, seconds in rows.items():
        ratio = f"{1 + shares[name] * seconds[kind] / base[kind]:.2f} x" if base and name in memory else ""
        share = f"{memory[name] / args.batch / 1e6:,.1f}" if name in memory else ""
        cells.append([name, *(f"{s:.3g}" for s in seconds), ratio, share])
    head = ["what", "seconds a batch", "CPU seconds", "guided / unguided step", "MB held an image"]
    print(f"Batch {args.batch}, {where}, load {load:.1f} at the start.\n")
    if args.out is None:
        print(table(head, cells))
        return
    args.out.parent.mkdir(parents=True, exist_ok=True)
    seconds, cpu = ({name: values[i] for name, values in rows.items()} for i in (0, 1))
    body = {"seconds": seconds, "cpu_seconds": cpu, "bytes": memory, "batch": args.batch, "machine": machine()}
    save(args.out, body | {"where": where, "load": load}, table(head, cells))


if __name__ == "__main__":
    sys.exit(main())
