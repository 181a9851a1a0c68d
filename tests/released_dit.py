"""DiT as Peebles & Xie (2023) define it, from weights by the names of their release: formulas, no network class."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

Weights = dict[str, Tensor]
SIZES = {"width": 64, "depth": 2, "patch": 2, "channels": 4, "out": 8, "classes": 5, "side": 8}


def random_weights(seed: int = 0, **more: int) -> Weights:
    """Weights of a DiT, all of them random but the positions, which are fixed. Nothing is zero as before training."""
    s = SIZES | more
    d, p = s["width"], s["patch"]
    shapes = {"x_embedder.proj": (d, s["channels"], p, p), "t_embedder.mlp.0": (d, 256), "t_embedder.mlp.2": (d, d)}
    for i in range(s["depth"]):
        shapes |= {f"blocks.{i}.adaLN_modulation.1": (6 * d, d), f"blocks.{i}.attn.qkv": (3 * d, d)}
        shapes |= {f"blocks.{i}.attn.proj": (d, d), f"blocks.{i}.mlp.fc1": (4 * d, d)}
        shapes |= {f"blocks.{i}.mlp.fc2": (d, 4 * d)}
    shapes |= {"final_layer.adaLN_modulation.1": (2 * d, d), "final_layer.linear": (p * p * s["out"], d)}
    draw = torch.Generator().manual_seed(seed)
    made: Weights = {"y_embedder.embedding_table.weight": torch.randn(s["classes"] + 1, d, generator=draw)}
    for name, shape in shapes.items():
        made[f"{name}.weight"] = torch.randn(shape, generator=draw) / math.sqrt(math.prod(shape[1:]))
        made[f"{name}.bias"] = 0.1 * torch.randn(shape[0], generator=draw)
    return made | {"pos_embed": positions(s["side"] // p, d)[None]}


def positions(grid: int, width: int) -> Tensor:
    """(grid^2, width): the first half of the channels tells the column, the second the row; sines, then cosines."""
    rows, columns = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
    frequency = 10000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    angles = [place.reshape(-1, 1) * frequency for place in (columns, rows)]
    return torch.cat([f(a) for a in angles for f in (torch.sin, torch.cos)], dim=1).float()


def times(t: Tensor) -> Tensor:
    """(B,) -> (B, 256): cosines, then sines, of frequencies 10000^(-i/128)."""
    angles = t[:, None].float() * torch.exp(-math.log(10000) * torch.arange(128) / 128)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def forward(w: Weights, x: Tensor, t: Tensor, y: Tensor, heads: int) -> Tensor:
    """x (B, C, S, S), t (B,), y (B,) -> (B, C_out, S, S)."""

    def linear(h: Tensor, name: str) -> Tensor:
        return F.linear(h, w[f"{name}.weight"], w[f"{name}.bias"])

    def norm(h: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        return F.layer_norm(h, h.shape[-1:], eps=1e-6) * (1 + scale[:, None]) + shift[:, None]

    def attention(h: Tensor, name: str) -> Tensor:
        q, k, v = linear(h, f"{name}.qkv").unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        weights = (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1)
        return linear((weights @ v).transpose(1, 2).flatten(2), f"{name}.proj")

    def mlp(h: Tensor, name: str) -> Tensor:
        return linear(F.gelu(linear(h, f"{name}.fc1"), approximate="tanh"), f"{name}.fc2")

    p = w["x_embedder.proj.weight"].shape[-1]
    h = F.conv2d(x, w["x_embedder.proj.weight"], w["x_embedder.proj.bias"], stride=p).flatten(2).mT + w["pos_embed"]
    c = linear(F.silu(linear(times(t), "t_embedder.mlp.0")), "t_embedder.mlp.2")
    c = F.silu(c + w["y_embedder.embedding_table.weight"][y])
    depth = len({name.split(".")[1] for name in w if name.startswith("blocks.")})
    for block in (f"blocks.{i}" for i in range(depth)):
        s1, m1, g1, s2, m2, g2 = linear(c, f"{block}.adaLN_modulation.1").chunk(6, dim=1)
        h = h + g1[:, None] * attention(norm(h, s1, m1), f"{block}.attn")
        h = h + g2[:, None] * mlp(norm(h, s2, m2), f"{block}.mlp")
    shift, scale = linear(c, "final_layer.adaLN_modulation.1").chunk(2, dim=1)
    tokens = linear(norm(h, shift, scale), "final_layer.linear")
    side = x.shape[-1] // p
    patches = tokens.unflatten(1, (side, side)).unflatten(-1, (p, p, -1))  # (B, row, column, p, p, C_out)
    return patches.permute(0, 5, 1, 3, 2, 4).reshape(len(x), -1, side * p, side * p)


def with_cfg(w: Weights, x: Tensor, t: Tensor, y: Tensor, heads: int, scale: float) -> tuple[Tensor, Tensor]:
    """eps (B, 4, S, S) and the variance channel, as the released samplers see them: three of four channels guided."""
    null = torch.full_like(y, len(w["y_embedder.embedding_table.weight"]) - 1)
    cond, uncond = forward(w, x, t, y, heads), forward(w, x, t, null, heads)
    guided = uncond[:, :3] + scale * (cond[:, :3] - uncond[:, :3])
    return torch.cat([guided, cond[:, 3:4]], dim=1), cond[:, 4:]
