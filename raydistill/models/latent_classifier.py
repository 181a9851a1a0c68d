"""Classifiers of latents: what judges images that need not be decoded for it (LGD with learnability.space=latent)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from raydistill.errors import StageFailed
from raydistill.models.device import Placement
from raydistill.store.location import Location
from raydistill.store.sealed import Sealed


class LatentNet(nn.Module):
    """Blocks of conv3x3, instance norm, SiLU and 2 x 2 average pooling down to a side below 4; then a linear layer.

    Latents are centred and scaled channel by channel first, by buffers that travel with the weights.
    """

    def __init__(self, classes: int, shape: Sequence[int], width: int) -> None:
        super().__init__()
        channels, side = shape[0], min(shape[1:])
        layers: list[nn.Module] = []
        while side >= 4 or not layers:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.GroupNorm(width, width), nn.SiLU()]
            layers += [nn.AvgPool2d(2)] if side > 1 else []
            channels, side = width, side // 2
        self.features = nn.Sequential(*layers, nn.Flatten())
        with torch.no_grad():
            wide = self.features(torch.zeros(1, *shape)).shape[1]
        self.head = nn.Linear(wide, classes)
        self.register_buffer("mean", torch.zeros(shape[0], 1, 1))
        self.register_buffer("std", torch.ones(shape[0], 1, 1))

    def forward(self, z: Tensor) -> Tensor:
        """(B, C, h, w) -> logits (B, classes)."""
        return self.head(self.features((z - self.mean) / self.std))


@dataclass(frozen=True)
class LatentClassifierSpec:
    """A sealed classifier of latents (C, h, w) in VAE-scaled space: its weights, a column a class of `class_ids`."""

    sealed: Sealed
    class_ids: tuple[str, ...]
    shape: tuple[int, ...]
    width: int
    key: str

    @property
    def path(self) -> Location:
        return self.sealed.artifact.location

    def identity(self) -> dict[str, str]:
        """What logits depend on: width, classes and shape decided the weights."""
        return {"weights": self.sealed.digest}


class LatentClassifier:
    """A loaded one. Results are float32, and float64 of one in float64. Raises StageFailed if not finite."""

    def __init__(self, spec: LatentClassifierSpec, placement: Placement) -> None:
        self.spec, self.placement = spec, placement
        net = LatentNet(len(spec.class_ids), spec.shape, spec.width)
        net.load_state_dict(safetensors.torch.load(spec.sealed.body()))
        self.net = net.eval().requires_grad_(False).to(placement.device, placement.dtype)

    @torch.no_grad()
    def logits(self, z: Tensor) -> Tensor:
        """(B, K) of latents (B, C, h, w) in VAE-scaled space, on the device."""
        return self.logits_with_grad(z)

    def logits_with_grad(self, z: Tensor, checkpointed: bool = False) -> Tensor:
        """As `logits`, differentiable in z; `checkpointed` computes the network twice instead of keeping it."""
        z = z.to(self.placement.device, self.placement.dtype)
        out = checkpoint(self.net, z, use_reentrant=False) if checkpointed else self.net(z)
        if not torch.isfinite(out).all():
            raise StageFailed(
                f"{self.spec.key}: a classifier of latents gave a non-finite result in {self.placement.dtype}; try "
                "sample.dtype=float32"
            )
        return out.to(torch.promote_types(self.placement.dtype, torch.float32))
