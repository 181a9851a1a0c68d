"""What networks cost an image: FLOPs and memory, counted operation by operation on tensors without data."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from raydistill import registry
from raydistill.models.classifier import ClassifierSpec
from raydistill.models.latent_classifier import LatentNet
from raydistill.models.text_generator import UNET, is_pipeline

FLOAT = 4  # bytes of a float32
IMAGES = 2  # that are counted together: BatchNorm in training takes no single one

# The networks behind the ids that the presets name (models/published.py), by the config.json of their repositories.
SD_VAE = {
    "_class_name": "AutoencoderKL",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
}
DIT_XL = {
    "_class_name": "DiTTransformer2DModel",
    "num_attention_heads": 16,
    "attention_head_dim": 72,
    "num_layers": 28,
    "patch_size": 2,
    "in_channels": 4,
    "out_channels": 8,
    "num_embeds_ada_norm": 1000,
}


@dataclass(frozen=True)
class NetworkCost:
    """Of one image: FLOPs (2 a multiply-add), bytes in float32 of the largest operation with what it is given, and of
    all that operations give on the way forward, which a training keeps for the way back. `weights` are bytes of the
    network."""

    flops: float
    largest: float
    kept: float
    weights: float


class _Sizes(TorchDispatchMode):
    """Bytes of the largest operation, and of everything that operations give."""

    def __init__(self) -> None:
        super().__init__()
        self.largest, self.kept = 0, 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        new = sum(t.numel() for t in tree_leaves(out) if isinstance(t, torch.Tensor))
        seen = sum(t.numel() for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor))
        if not func.is_view:
            self.largest, self.kept = max(self.largest, new + seen), self.kept + new
        return out


def counted(net: nn.Module, forward: Callable[[nn.Module], torch.Tensor], backward: bool = False) -> NetworkCost:
    """Of one image, of a call on IMAGES of them; `backward` with the gradients of all weights. `net` is on meta."""
    weights = FLOAT * sum(p.numel() for p in net.parameters())
    with FlopCounterMode(display=False) as counter, _Sizes() as sizes, torch.set_grad_enabled(backward):
        out = forward(net)
        kept = sizes.kept
        if backward:
            out.sum().backward()
    return NetworkCost(
        counter.get_total_flops() / IMAGES, FLOAT * sizes.largest / IMAGES, FLOAT * kept / IMAGES, weights
    )


def config_of(generator: Path) -> Path:
    """The file that says what a generator's network is."""
    return generator / (UNET if is_pipeline(str(generator)) else "transformer/config.json")


def of_vae(config: Mapping[str, Any], image_size: int) -> tuple[NetworkCost, NetworkCost, tuple[int, int, int]]:
    """Encoding and decoding, and the shape of a latent, of the network that a config.json describes."""
    net = _diffusers(config)
    with torch.device("meta"):
        x = torch.empty(IMAGES, 3, image_size, image_size)
        with torch.no_grad():
            z = _encoded(net, x)
        shape = (int(z.shape[1]), int(z.shape[2]), int(z.shape[3]))
        return (
            counted(net, lambda n: _encoded(n, x)),
            counted(net, lambda n: n.decode(z).sample),
            shape,
        )


def of_generator(config: Mapping[str, Any], shape: tuple[int, int, int]) -> NetworkCost:
    """One call for one latent: a DiT told a label, or a UNet of Stable Diffusion told a text."""
    net = _diffusers(config)
    with torch.device("meta"):
        x, t = torch.empty(IMAGES, *shape), torch.zeros(IMAGES, dtype=torch.long)
        if config.get("cross_attention_dim") is not None:
            text = torch.empty(IMAGES, 77, int(config["cross_attention_dim"]))
            return counted(net, lambda n: n(x, t, encoder_hidden_states=text).sample)
        return counted(net, lambda n: n(x, timestep=t, class_labels=t).sample)


def of_student(name: str, classes: int, image_size: int, width: int) -> tuple[NetworkCost, NetworkCost]:
    """A step of training, and a test, for one image."""
    with torch.device("meta"):
        net = registry.get("student", name)(classes, image_size, width)
        x = torch.empty(IMAGES, 3, image_size, image_size)
        return counted(net.train(), lambda n: n(x), backward=True), counted(net.eval(), lambda n: n(x))


def of_latent_judge(classes: int, shape: tuple[int, int, int], width: int) -> tuple[NetworkCost, NetworkCost]:
    """A step of training, and a test, for one latent."""
    net = LatentNet(classes, shape, width).to("meta")
    z = torch.empty(IMAGES, *shape, device="meta")
    return counted(net.train(), lambda n: n(z), backward=True), counted(net.eval(), lambda n: n(z))


def of_classifier(spec: ClassifierSpec) -> NetworkCost:
    """Logits of one image."""
    with torch.device("meta"):
        x = torch.empty(IMAGES, 3, spec.image_size, spec.image_size)
        return counted(spec.build().eval(), lambda n: n(x))


def bytes_of(shape: tuple[int, ...], number: int = FLOAT) -> int:
    return number * math.prod(shape)


def _diffusers(config: Mapping[str, Any]) -> Any:
    from raydistill.models.device import quiet_libraries

    quiet_libraries()
    import diffusers

    kind = getattr(diffusers, str(config["_class_name"]), None) or diffusers.DiTTransformer2DModel
    if kind is getattr(diffusers, "Transformer2DModel", None):  # by which diffusers 0.12 wrote a DiT
        kind = diffusers.DiTTransformer2DModel
    with torch.device("meta"):
        return kind.from_config({k: v for k, v in config.items() if k != "_class_name"}).eval()


def _encoded(net: Any, x: torch.Tensor) -> torch.Tensor:
    out = net.encode(x)
    return out.latents if hasattr(out, "latents") else out.latent_dist.mode()
