"""The two networks, built from the configuration with seeded weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from raydistill.config import PretrainConfig
from raydistill.errors import BadInput
from raydistill.models.device import quiet_libraries
from raydistill.seeding import generator

NORM_GROUPS = 8


def build_vae(config: PretrainConfig, image_size: int, seed: int) -> nn.Module:
    """diffusers AutoencoderKL for 3 x image_size x image_size. Raises BadInput for sizes that cannot work."""
    quiet_libraries()
    from diffusers import AutoencoderKL

    channels = config.vae_channels
    if any(c < NORM_GROUPS or c % NORM_GROUPS for c in channels):
        raise BadInput(f"pretrain.vae_channels={channels}: each must be a multiple of {NORM_GROUPS}")
    downscale = 2 ** (len(channels) - 1)
    if image_size % downscale:
        raise BadInput(
            f"source.image_size={image_size} is not a multiple of {downscale}, the downscaling that "
            f"pretrain.vae_channels={channels} gives"
        )
    with _seeded(seed, "vae"):
        return AutoencoderKL(
            block_out_channels=tuple(channels),
            latent_channels=config.latent_channels,
            sample_size=image_size,
            down_block_types=("DownEncoderBlock2D",) * len(channels),
            up_block_types=("UpDecoderBlock2D",) * len(channels),
            layers_per_block=1,
            norm_num_groups=NORM_GROUPS,
            force_upcast=False,
        )


def build_generator(
    config: PretrainConfig, latent_shape: tuple[int, int, int], out_channels: int, classes: int, seed: int
) -> nn.Module:
    """diffusers DiTTransformer2DModel over `latent_shape` (C, h, w): `classes` labels and a null label.

    Every block starts as the identity (adaLN-zero, Peebles and Xie 2023), which diffusers leaves to the trainer. The
    conditioning starts larger than in the paper, whose scale takes a long training to grow.
    Raises BadInput for sizes that cannot work.
    """
    quiet_libraries()
    from diffusers import DiTTransformer2DModel

    channels, height, _ = latent_shape
    if height % config.patch:
        raise BadInput(f"pretrain.patch={config.patch} does not divide the latent size {height}")
    if config.heads * config.head_dim % 4:
        raise BadInput(f"pretrain.heads x pretrain.head_dim = {config.heads * config.head_dim} must be a multiple of 4")
    with _seeded(seed, "generator"):
        net = DiTTransformer2DModel(
            num_attention_heads=config.heads,
            attention_head_dim=config.head_dim,
            in_channels=channels,
            out_channels=out_channels,
            num_layers=config.layers,
            attention_bias=True,
            sample_size=height,
            patch_size=config.patch,
            num_embeds_ada_norm=classes,
        )
        _init_dit(net)
    return net


def _init_dit(net: nn.Module) -> None:
    for name, module in net.named_modules():
        if isinstance(module, nn.Linear):
            if name.endswith("norm1.linear") or name in ("proj_out_1", "proj_out_2"):
                nn.init.zeros_(module.weight)
            else:
                nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.5)


class _seeded:
    """Gives torch's global generator a keyed state inside the block and its old one back after it."""

    def __init__(self, seed: int, purpose: str) -> None:
        self.seed = int(generator(seed, "pretrain", purpose, "weights").integers(2**63))

    def __enter__(self) -> None:
        self.state = torch.get_rng_state()
        torch.default_generator.manual_seed(self.seed)

    def __exit__(self, *_: Any) -> None:
        torch.set_rng_state(self.state)
