"""The VAE: pixels <-> latents in VAE-scaled space (z = (posterior mean - shift_factor) * scaling_factor)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from raydistill.errors import BadInput, StageFailed
from raydistill.models import fits, published
from raydistill.models.checkpoint import (
    WEIGHTS,
    check_finished,
    check_weights,
    integer,
    load_network,
    number,
    packaged,
    read_config,
    refuse_changes,
    weights_digest,
    weights_name,
)
from raydistill.models.device import LAYOUT, Placement, quiet_libraries

CLASSES = ("AutoencoderKL", "AutoencoderTiny")
FILES = ["config.json", WEIGHTS]


class VaeSpec:
    """What is known of a VAE directory without loading it. Raises BadInput where it would have to guess.

    Of a whole pipeline its vae/ is meant. `name` is the id on the hub by which the directory was found, if it was.
    """

    def __init__(self, path: str | None, name: str | None = None) -> None:
        self.path, self.name = Path(path) if path else Path(packaged("vae")), name
        if (self.path / "vae").is_dir() and not (self.path / "config.json").exists():
            self.path = self.path / "vae"
        check_finished(self.path, "vae.path")
        refuse_changes(self.path, "vae.path")
        config = read_config(self.path / "config.json", "vae.path") if self.path.is_dir() else {}
        check_weights(self.path, "vae.path")
        self.kind = str(config.get("_class_name"))
        if self.kind not in CLASSES:
            raise BadInput(f"vae.path: {self.path} is a {self.kind!r}; supported: {', '.join(CLASSES)}")
        file = self.path / "config.json"
        text = published.vae_config(name, config)
        self.texts = {} if text is None else {"config.json": text}
        if text is not None:
            config = json.loads(text)
        for key in ("scaling_factor", "latent_channels"):
            if config.get(key) is None:
                raise BadInput(f"vae.path: {file} does not give {key}, and it is never guessed")
        self.scaling_factor = number(config, "scaling_factor", file, "vae.path")
        if self.scaling_factor <= 0:
            raise BadInput(f"vae.path: {file} gives scaling_factor={self.scaling_factor:g}; it must be positive")
        shifted = config.get("shift_factor") is not None
        self.shift_factor = number(config, "shift_factor", file, "vae.path") if shifted else 0.0
        self.channels = integer(config, "latent_channels", file, "vae.path")
        levels = config.get("block_out_channels") or config.get("encoder_block_out_channels")
        if not isinstance(levels, list) or not levels:
            raise BadInput(f"vae.path: {file} gives block_out_channels={levels!r}, which is not a list of widths")
        self.downscale = 2 ** (len(levels) - 1)

    def latent_shape(self, image_size: int) -> tuple[int, int, int]:
        """(C, h, w) for square images. Raises BadInput if the VAE cannot take the size."""
        if image_size % self.downscale:
            raise BadInput(
                f"source.image_size={image_size} is not a multiple of {self.downscale}, the VAE's downscaling "
                f"({self.path})"
            )
        return (self.channels, image_size // self.downscale, image_size // self.downscale)

    def check_network(self) -> None:
        """Raises BadInput for weights that do not fit config.json. Imports diffusers, which takes seconds."""
        quiet_libraries()
        import diffusers

        config = read_config(self.path / "config.json", "vae.path")
        fits.check_diffusers(getattr(diffusers, self.kind), config, self.path / weights_name(self.path), "vae.path")

    def identity(self) -> dict[str, Any]:
        """What latents and images depend on, free of paths; `weights` alone says whose VAE it is."""
        return {"weights": weights_digest(self.path, FILES, self.texts, "vae.path"), "layout": str(LAYOUT)}


class Vae:
    """A loaded VAE. `encode` and `decode` are deterministic for a given batch shape, device and thread count.

    It computes in the placement's dtype; what it returns as floats is float32, and float64 of a VAE in float64.
    """

    def __init__(self, spec: VaeSpec, placement: Placement) -> None:
        quiet_libraries()
        import diffusers

        self.spec, self.placement = spec, placement
        net = load_network(getattr(diffusers, spec.kind), spec.path, "vae.path")
        self.net = net.eval().requires_grad_(False).to(placement.device, placement.dtype, memory_format=LAYOUT)

    @torch.inference_mode()
    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 (B, H, W, 3) -> float32 (B, C, h, w) on the CPU. Raises StageFailed on a non-finite latent."""
        x = (
            pixels.to(self.placement.device)
            .permute(0, 3, 1, 2)
            .to(torch.float32)
            .div(127.5)
            .sub(1)
            .to(self.placement.dtype)
        )
        out = self.net.encode(x.contiguous(memory_format=LAYOUT))
        mean = out.latents if self.spec.kind == "AutoencoderTiny" else out.latent_dist.mode()
        z = (mean.float() - self.spec.shift_factor) * self.spec.scaling_factor
        if not torch.isfinite(z).all():
            raise StageFailed(
                f"vae: {self.spec.path} gave non-finite latents in {self.placement.dtype}; try encode.dtype=float32"
            )
        return z.cpu()

    @torch.inference_mode()
    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """float32 (B, C, h, w) in VAE-scaled space -> uint8 (B, H, W, 3) on the CPU."""
        return self._image(z).add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu()

    def decode_with_grad(self, z: torch.Tensor, checkpointed: bool = False) -> torch.Tensor:
        """Floats (B, C, h, w) in VAE-scaled space -> floats (B, 3, S, S) on the device, black 0 and white 1.

        Differentiable in z wherever gradients are recorded (`guidance.gradient`). Not clipped: what lies beyond black
        or white finds back. `checkpointed` keeps the decoder's blocks for the way back as their inputs alone and
        computes them twice. Raises StageFailed on a pixel that is not finite.
        """
        if checkpointed:
            self.net.enable_gradient_checkpointing()
        else:
            self.net.disable_gradient_checkpointing()
        return self._image(z).add(1).div(2)

    def _image(self, z: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w) in VAE-scaled space -> (B, 3, S, S), black -1 and white 1."""
        wide = torch.promote_types(self.placement.dtype, torch.float32)
        raw = z.to(self.placement.device, wide) / self.spec.scaling_factor + self.spec.shift_factor
        image = self.net.decode(raw.to(self.placement.dtype).contiguous(memory_format=LAYOUT)).sample.to(wide)
        if not torch.isfinite(image).all():
            raise StageFailed(
                f"vae: {self.spec.path} decoded non-finite pixels in {self.placement.dtype}; try sample.dtype=float32"
            )
        return image
