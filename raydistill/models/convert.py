"""Released checkpoints of DiT (facebookresearch/DiT) and SiT (willisma/SiT) -> a generator directory for diffusers.

    python -m raydistill.models.convert DiT-XL-2-256x256.safetensors OUT --image-size 256 --classes FILE
    python -m raydistill.models.convert SiT-XL-2-256.safetensors OUT --image-size 256 --classes FILE --sit

What the file shows is read from it (width, depth, patch, channels, classes); what it cannot show is given (image size,
class ids, and the number of attention heads of a width that the release does not have). Positions are checked and left
out: diffusers computes the same table. Labels and times are embedded once in the release and once a block in diffusers.

SiT (Ma et al. 2024) is the same network by the same names, but predicts data - noise and is told t, 1 at data. Its
releases make twice the channels and throw the second half away; here it is not kept.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from raydistill.errors import BadInput, one_line
from raydistill.identity import file_digest
from raydistill.models.checkpoint import PICKLES, WEIGHTS
from raydistill.models.device import quiet_libraries
from raydistill.models.published import SCALING_FACTOR
from raydistill.models.tool import ToolParser
from raydistill.models.whole import check_free, whole_folder

HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16}  # by width: DiT-S, -B, -L and -XL (Peebles & Xie 2023, table 1)
DOWNSCALE = 8  # of the VAE that the release works in
BETAS = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
POSITIONS = "pos_embed"
ONCE = {
    "x_embedder.proj": "pos_embed.proj",
    "final_layer.adaLN_modulation.1": "proj_out_1",  # shift, scale, in both
    "final_layer.linear": "proj_out_2",
}
EACH_BLOCK = {
    "adaLN_modulation.1": "norm1.linear",  # shift, scale, gate of attention, then of the MLP, in both
    "attn.proj": "attn1.to_out.0",
    "mlp.fc1": "ff.net.0.proj",
    "mlp.fc2": "ff.net.2",
}
EMBEDDERS = {
    "t_embedder.mlp.0.weight": "timestep_embedder.linear_1.weight",
    "t_embedder.mlp.0.bias": "timestep_embedder.linear_1.bias",
    "t_embedder.mlp.2.weight": "timestep_embedder.linear_2.weight",
    "t_embedder.mlp.2.bias": "timestep_embedder.linear_2.bias",
    "y_embedder.embedding_table.weight": "class_embedder.embedding_table.weight",
}
DIT = {"objective": "eps", "prediction": "epsilon"}
SIT = {"objective": "flow", "prediction": "flow", "velocity": "data - noise", "timestep": "t"}
Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Shape:
    """What the weights show of the network. `classes` does not count the null label, which is the last row."""

    width: int
    depth: int
    heads: int
    patch: int
    channels: int
    out_channels: int
    classes: int
    side: int  # of the latent

    def config(self) -> dict[str, Any]:
        """Arguments of diffusers' DiTTransformer2DModel. The release's layer norms have eps 1e-6."""
        return {
            "num_attention_heads": self.heads,
            "attention_head_dim": self.width // self.heads,
            "in_channels": self.channels,
            "out_channels": self.out_channels,
            "num_layers": self.depth,
            "sample_size": self.side,
            "patch_size": self.patch,
            "num_embeds_ada_norm": self.classes,
            "norm_eps": 1e-6,
        }


def convert(
    source: Path,
    out: Path,
    image_size: int,
    class_ids: Sequence[str],
    heads: int | None = None,
    release: dict[str, str] = DIT,
) -> None:
    """Writes OUT/transformer, OUT/scheduler and OUT/training.json, whole or not at all. `release` is DIT or SIT.

    Raises BadInput before anything is written, StageFailed if it cannot be.
    """
    check_free(out)
    released = read_weights(source)
    shape = shape_of(released, source, image_size, heads)
    if release is SIT and shape.out_channels != shape.channels:
        released, shape = without_second_half(released, shape)
    if len(class_ids) != shape.classes:
        raise BadInput(
            f"--classes: {len(class_ids)} class ids, but {source} has {shape.classes} classes and a null label; "
            "give the id of each class, in the order of the network's labels"
        )
    check_positions(released, shape, source)
    weights = translate(released, shape, source)
    record = {
        **release,
        "learned_variance": shape.out_channels == 2 * shape.channels,
        "latent_scale": 1.0,
        "timestep_freq_shift": 0,
        "vae_scaling_factor": SCALING_FACTOR,
        "class_ids": list(class_ids),
        "null_class_index": shape.classes,
        "image_size": image_size,
        "latent_shape": [shape.channels, shape.side, shape.side],
        "converted_from": {"file": source.name, "sha256": file_digest(source)},
    }
    with whole_folder(out) as folder:
        write(folder, weights, shape, record)


def read_weights(source: Path) -> Weights:
    """The tensors of a safetensors file by their released names. Raises BadInput, refusing pickles unopened."""
    if source.suffix in PICKLES:
        raise BadInput(
            f"{source} is a pickle, which can run code when it is opened; rewrite it as safetensors first "
            "(docs/bring-your-own.md shows how)"
        )
    if not source.is_file():
        raise BadInput(f"{source} is not a file; give a checkpoint of DiT's release as safetensors")
    try:
        return load_file(source)
    except (SafetensorError, OSError, ValueError) as e:
        raise BadInput(f"{source} is not a whole safetensors file ({one_line(e)}); fetch or rewrite it") from None


def shape_of(released: Weights, source: Path, image_size: int, heads: int | None) -> Shape:
    """Reads the network's shape off its weights. Raises BadInput for what is not a DiT of the release."""

    def sizes(name: str, axes: int) -> list[int]:
        if name not in released or released[name].ndim != axes:
            raise BadInput(f"{source} has no {name} of {axes} axes, which every checkpoint of DiT's release has")
        return list(released[name].shape)

    width, channels, patch, _ = sizes("x_embedder.proj.weight", 4)
    rows, _ = sizes("y_embedder.embedding_table.weight", 2)
    out_channels = sizes("final_layer.linear.weight", 2)[0] // (patch * patch)
    numbers = {name.split(".")[1] for name in released if name.startswith("blocks.")}
    heads = heads or HEADS.get(width)
    if heads is None:
        raise BadInput(f"{source} is {width} wide, which the release is not; give its attention heads with --heads N")
    if heads < 1 or width % heads:
        raise BadInput(f"--heads {heads} does not divide the width {width} of {source}")
    if out_channels not in (channels, 2 * channels):
        raise BadInput(
            f"{source} makes {out_channels} channels of {channels}; known: as many, or twice with a variance"
        )
    if image_size < 1 or image_size % (DOWNSCALE * patch):
        raise BadInput(
            f"--image-size {image_size} is not a multiple of {DOWNSCALE * patch}, the VAE's {DOWNSCALE} "
            f"pixels times the patch of {patch}"
        )
    return Shape(width, len(numbers), heads, patch, channels, out_channels, rows - 1, image_size // DOWNSCALE)


def without_second_half(released: Weights, shape: Shape) -> tuple[Weights, Shape]:
    """The same network without the second half of its output channels."""
    cut = dict(released)
    for part in ("weight", "bias"):
        rows = released[f"final_layer.linear.{part}"]  # by pixel of the patch, then by channel
        by_channel = rows.unflatten(0, (shape.patch**2, shape.out_channels))
        cut[f"final_layer.linear.{part}"] = by_channel[:, : shape.channels].flatten(0, 1)
    return cut, replace(shape, out_channels=shape.channels)


def check_positions(released: Weights, shape: Shape, source: Path) -> None:
    """Raises BadInput unless the positions are the fixed sines and cosines of this image size."""
    quiet_libraries()
    from diffusers.models.embeddings import get_2d_sincos_pos_embed

    grid = shape.side // shape.patch
    if POSITIONS not in released or tuple(released[POSITIONS].shape) != (1, grid * grid, shape.width):
        had = tuple(released[POSITIONS].shape) if POSITIONS in released else "none"
        raise BadInput(
            f"{source} has positions {had}, but --image-size takes {(1, grid * grid, shape.width)} at patch "
            f"{shape.patch}; give the size that it was trained at"
        )
    fixed = get_2d_sincos_pos_embed(shape.width, grid, base_size=grid, output_type="pt")
    if (released[POSITIONS][0].double() - fixed.double()).abs().max() > 1e-2:
        raise BadInput(f"{source} has other positions than the release's sines and cosines; diffusers knows only those")


def translate(released: Weights, shape: Shape, source: Path) -> Weights:
    """Released names -> diffusers' names. Raises BadInput naming a weight that lacks, is too many or does not fit."""
    left = dict(released)
    weights: Weights = {}
    left.pop(POSITIONS, None)

    def take(name: str) -> Tensor:
        if name not in left:
            raise BadInput(f"{source} has no weight {name}, which a DiT of {shape.depth} blocks has")
        return left.pop(name)

    embedders = {to: take(name) for name, to in EMBEDDERS.items()}
    for part in ("weight", "bias"):
        weights |= {f"{to}.{part}": take(f"{name}.{part}") for name, to in ONCE.items()}
        for i in range(shape.depth):
            ours, theirs = f"transformer_blocks.{i}", f"blocks.{i}"
            weights |= {f"{ours}.{to}.{part}": take(f"{theirs}.{name}.{part}") for name, to in EACH_BLOCK.items()}
            thirds = take(f"{theirs}.attn.qkv.{part}").chunk(3)
            weights |= {f"{ours}.attn1.to_{c}.{part}": t for c, t in zip("qkv", thirds, strict=True)}
    for i in range(shape.depth):
        weights |= {f"transformer_blocks.{i}.norm1.emb.{to}": tensor for to, tensor in embedders.items()}
    if left:
        raise BadInput(f"{source} has a weight {min(left)} too many; DiT's release has none of that name")
    for name, tensor in network(shape).state_dict().items():
        if weights[name].shape != tensor.shape:
            raise BadInput(f"{source}: {name} would be {tuple(weights[name].shape)}, but takes {tuple(tensor.shape)}")
    return {name: tensor.contiguous().clone() for name, tensor in weights.items()}


def network(shape: Shape) -> Any:
    """diffusers' network of that shape, without memory."""
    quiet_libraries()
    from diffusers import DiTTransformer2DModel

    with torch.device("meta"):
        return DiTTransformer2DModel(**shape.config())


def write(out: Path, weights: Weights, shape: Shape, record: dict[str, Any]) -> None:
    from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler

    network(shape).save_config(str(out / "transformer"))
    save_file(weights, out / "transformer" / WEIGHTS, metadata={"format": "pt"})
    (out / "transformer" / WEIGHTS).chmod(0o644)
    variance = "learned_range" if record["learned_variance"] else "fixed_small"
    scheduler: Any
    if record["prediction"] == "flow":
        scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.0)
    else:
        scheduler = DDPMScheduler(**BETAS, variance_type=variance, prediction_type="epsilon", clip_sample=False)
    scheduler.save_pretrained(str(out / "scheduler"))
    (out / "training.json").write_text(json.dumps(record, indent=1) + "\n")


def read_classes(path: Path) -> list[str]:
    """Class ids: the first word of each line; empty lines and those that begin with # are passed over."""
    try:
        lines = [line.split() for line in path.read_text("utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as e:
        raise BadInput(f"--classes {path} cannot be read: {one_line(e)}") from None
    ids = [words[0] for words in lines if words and not words[0].startswith("#")]
    twice = sorted({i for i in ids if ids.count(i) > 1})
    if twice:
        raise BadInput(f"--classes {path} names {twice[0]} more than once")
    return ids


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0, 1 (could not be written) or 2 (bad input, nothing written)."""
    p = ToolParser(
        "convert", "A checkpoint of DiT's or SiT's release, as safetensors -> a directory for generator.path."
    )
    p.add_argument("source", type=Path, metavar="SRC.safetensors", help="weights by the release's names")
    p.add_argument("out", type=Path, metavar="OUT", help="directory to write")
    p.add_argument("--image-size", type=int, required=True, metavar="N", help="pixels a side that it was trained at")
    p.add_argument(
        "--classes",
        type=Path,
        required=True,
        metavar="FILE",
        help="class ids in the order of the labels, one a line (ImageNet: the 1000 WordNet ids, sorted)",
    )
    p.add_argument("--heads", type=int, metavar="N", help="attention heads, for widths that the release does not have")
    p.add_argument("--sit", action="store_true", help="it is one of SiT's: a flow, with velocity data - noise told t")

    def work(args: argparse.Namespace) -> Path:
        release = SIT if args.sit else DIT
        convert(args.source, args.out, args.image_size, read_classes(args.classes), args.heads, release)
        return Path(args.out)

    return p.carry(argv, work)


if __name__ == "__main__":
    sys.exit(main())
