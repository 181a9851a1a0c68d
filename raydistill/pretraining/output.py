"""A finished training as a checkpoint directory: diffusers layout, a loss curve, and training.json, written last."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from raydistill.config import Config, leaves, load, reads
from raydistill.errors import StageFailed
from raydistill.identity import file_digest
from raydistill.models.checkpoint import WEIGHTS
from raydistill.pretraining.origin import Origin
from raydistill.sources.base import Listing

MARKER, CURVE = "training.json", "loss.png"
FILES = (WEIGHTS, "config.json", f"transformer/{WEIGHTS}", "transformer/config.json", "scheduler/scheduler_config.json")
BATCH = 64
SMOOTH = 100
GENERATOR_READS = ("vae.", "generator.objective", "encode.batch", "encode.dtype", "encode.threads")


def command(config: Config) -> str:
    """The command that repeats this training: every key that differs from the default preset and is read by it."""
    base, mine = load().tree(), config.tree()
    sections = ("seed", "source.", "pretrain.") + (GENERATOR_READS if config.pretrain.target == "generator" else ())
    words = []
    for key, _ in leaves(Config):
        value = _at(mine, key)
        if key.startswith(sections) and reads.pretraining(key, config) and value != _at(base, key):
            text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
            words.append(f"{key}={text}")
    return shlex.join(["python", "jobs/pretrain.py", *words])


def _at(tree: dict[str, Any], key: str) -> Any:
    value: Any = tree
    for part in key.split("."):
        value = value[part]
    return value


def common_record(config: Config, listing: Listing, losses: Sequence[float], seconds: float) -> dict[str, Any]:
    """The part of training.json that both targets share. `seconds` is the time spent in optimiser steps."""
    images = {"kind": config.source.kind, "split": listing.split, "images": len(listing), "digest": listing.digest}
    return {
        "source": images,
        "image_size": config.source.image_size,
        "seed": config.seed,
        "steps": config.pretrain.steps,
        "batch": config.pretrain.batch,
        "workers": config.pretrain.workers,
        "lr": config.pretrain.lr,
        "ema": config.pretrain.ema,
        "weights": "EMA",
        "images_seen": config.pretrain.steps * config.pretrain.batch,
        "train_seconds": round(seconds, 1),
        "final_loss": float(np.mean(losses[-SMOOTH:])),
        "final_loss_steps": min(SMOOTH, len(losses)),
        "command": command(config),
    }


def write_vae(
    out: Path, net: nn.Module, pixels: torch.Tensor, record: dict[str, Any], losses: Sequence[float], kl_weight: float
) -> None:
    """Saves the VAE as its 16-bit self, measured on `pixels` uint8 (N, H, W, 3), the training images.

    `scaling_factor` and `shift_factor` are set so that z = (mean - shift_factor) scaling_factor has mean 0 and standard
    deviation 1 over all elements.
    """
    dtype = _round_to_half(net, "VAE")
    mean, std, absolute, squared, shape = _measure(net, pixels)
    net.register_to_config(scaling_factor=1.0 / std, shift_factor=mean)
    _save_model(net, out, dtype)
    psnr = 10 * float(np.log10(4 / max(squared, 1e-12)))
    _finish(
        out,
        record
        | {
            "objective": "vae",
            "kl_weight": kl_weight,
            "dtype": _name(dtype),
            "latent_shape": list(shape),
            "scaling_factor": 1.0 / std,
            "shift_factor": mean,
            "reconstruction": {
                "mean_absolute": absolute,
                "mean_squared": squared,
                "psnr_db": psnr,
                "range": [-1, 1],
                "images": "train",
            },
        },
        losses,
    )


def write_generator(
    out: Path,
    net: nn.Module,
    origin: Origin,
    record: dict[str, Any],
    losses: Sequence[float],
    validation: Sequence[tuple[int, float]],
    latent_scale: float,
) -> None:
    """Saves the DiT in transformer/, its noise path in scheduler/ and what a sampler must know in training.json."""
    dtype = _to_dtype(net, origin.dtype) if origin.dtype else _round_to_half(net, "generator")
    _save_model(net, out / "transformer", dtype)
    _save_scheduler(origin, out / "scheduler")
    c = net.config
    _finish(
        out,
        origin.record
        | record
        | {
            "objective": origin.objective,
            "latent_scale": latent_scale,
            "latent_shape": [c.in_channels, c.sample_size, c.sample_size],
            "class_ids": list(origin.class_ids),
            "null_class_index": origin.null,
            "dtype": _name(dtype),
            "validation_loss": [list(v) for v in validation],
        },
        losses,
        validation,
    )


def spoiled(out: Path, record: dict[str, Any]) -> str | None:
    """The first file of a finished training that is not what `record`, its training.json, says; None if there is none.

    What an older version wrote says nothing of its files.
    """
    files = record.get("files", {})
    for name in FILES if isinstance(files, dict) else ():
        if name in files and not ((out / name).is_file() and file_digest(out / name) == files[name]):
            return name
    return None


def _save_scheduler(origin: Origin, out: Path) -> None:
    if origin.spec is not None:  # as its own trainer wrote it
        out.mkdir(parents=True, exist_ok=True)
        (out / "scheduler_config.json").write_text(json.dumps(origin.scheduler, indent=2, sort_keys=True) + "\n")
        return
    import diffusers

    scheduler = dict(origin.scheduler)
    getattr(diffusers, scheduler.pop("_class_name"))(**scheduler).save_pretrained(str(out))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _check_finite(net: nn.Module, what: str) -> None:
    if not all(torch.isfinite(tensor).all() for tensor in net.state_dict().values()):
        raise StageFailed(f"pretrain: the {what} holds non-finite weights; lower pretrain.lr")


def _to_dtype(net: nn.Module, dtype: torch.dtype) -> torch.dtype:
    """A fine-tuned network stays in its checkpoint's dtype: what was not trained keeps its bits."""
    _check_finite(net, "generator")
    net.to(dtype)
    return dtype


def _round_to_half(net: nn.Module, what: str) -> torch.dtype:
    """Rounds the weights to what will be stored, so that everything measured is measured on the shipped network."""
    _check_finite(net, what)
    with torch.no_grad():
        if any(t.abs().max() > torch.finfo(torch.float16).max for t in net.state_dict().values()):
            return torch.float32
        for tensor in net.state_dict().values():
            tensor.copy_(tensor.half())
    return torch.float16


def _save_model(net: nn.Module, out: Path, dtype: torch.dtype) -> None:
    out.mkdir(parents=True, exist_ok=True)
    net.to(dtype).save_pretrained(str(out), safe_serialization=True)
    if not (out / WEIGHTS).is_file():
        raise StageFailed(f"pretrain: {out} did not get a whole {WEIGHTS}; lower the size of the network")
    (out / WEIGHTS).chmod(0o644)


@torch.inference_mode()
def _measure(net: nn.Module, pixels: torch.Tensor) -> tuple[float, float, float, float, tuple[int, ...]]:
    """Latents' mean and standard deviation; mean absolute and squared reconstruction error in [-1, 1]; latent shape."""
    count, total, square, absolute, squared = 0, 0.0, 0.0, 0.0, 0.0
    z = torch.empty(0)
    for part in pixels.split(BATCH):
        x = part.permute(0, 3, 1, 2).to(torch.float32).div(127.5).sub(1)
        z = net.encode(x).latent_dist.mode()
        error = net.decode(z).sample.clamp(-1, 1) - x
        count += z.numel()
        total += float(z.double().sum())
        square += float(z.double().square().sum())
        absolute += float(error.abs().double().sum())
        squared += float(error.square().double().sum())
    mean = total / count
    std = float(np.sqrt(square / count - mean**2))
    return mean, std, absolute / pixels.numel(), squared / pixels.numel(), tuple(z.shape[1:])


def _finish(
    out: Path, record: dict[str, Any], losses: Sequence[float], validation: Sequence[tuple[int, float]] = ()
) -> None:
    draw_curve(out / CURVE, losses, f"{record['objective']}: training loss, seed {record['seed']}", validation)
    record = {**record, "files": {name: file_digest(out / name) for name in FILES if (out / name).is_file()}}
    part = out / f".{MARKER}.part"
    part.write_text(json.dumps(record, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
    os.replace(part, out / MARKER)


def draw_curve(path: Path, losses: Sequence[float], title: str, validation: Sequence[tuple[int, float]] = ()) -> None:
    """PNG of the loss per step, its running mean, and the averaged weights' validation losses by step."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    values = np.asarray(losses, dtype=np.float64)
    window = max(1, min(SMOOTH, len(values) // 10))
    mean = np.convolve(values, np.ones(window) / window, mode="valid")
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(np.arange(1, len(values) + 1), values, color="0.8", linewidth=0.6, label="step")
    axes.plot(np.arange(window, len(values) + 1), mean, color="C0", linewidth=1.4, label=f"mean of {window}")
    if validation:
        axes.plot(*zip(*validation, strict=True), "o-", color="C1", markersize=3, linewidth=1, label="validation, EMA")
    low, high = float(values.min()), float(np.quantile(values, 0.995)) if len(values) > 1 else float(values.max())
    axes.set(xlabel="optimiser step", ylabel="loss", title=title)
    if values.min() > 0:
        axes.set_yscale("log")
    elif high > low:
        axes.set_ylim(low, high)
    axes.legend(frameon=False)
    FigureCanvasAgg(figure).print_png(str(path), metadata={"Software": None})
