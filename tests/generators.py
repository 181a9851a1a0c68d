"""Small untrained generators of any parametrisation, in diffusers layout: for tests of what a directory means."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

CLASSES = [str(i) for i in range(10)]
SCHEDULERS: dict[str, dict[str, Any]] = {
    "epsilon": {"_class_name": "DDIMScheduler", "prediction_type": "epsilon"},
    "v": {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"},
    "flow": {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 1.0},
}
BETAS = {"num_train_timesteps": 1000, "beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}


def write(folder: Path, kind: str, scheduler: dict[str, Any] | None = None, **training: Any) -> str:
    """A transformer of the quickstart's latents (4, 8, 8) and digits; the same weights every time."""
    from diffusers import DiTTransformer2DModel

    torch.manual_seed(0)
    net = DiTTransformer2DModel(
        2,
        8,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=10,
        norm_type="ada_norm_zero",
        activation_fn="gelu-approximate",
    )
    net.save_pretrained(folder / "transformer")
    (folder / "scheduler").mkdir()
    said = (BETAS if kind != "flow" else {}) | SCHEDULERS[kind] | (scheduler or {})
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(said))
    told = {"prediction": kind, "latent_scale": 1.0, "class_ids": CLASSES, "null_class_index": 10}
    (folder / "training.json").write_text(json.dumps(told | {"learned_variance": False} | training))
    return str(folder)
