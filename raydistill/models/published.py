"""What the repositories of published checkpoints leave out: facts, by their ids on the hub.

They stand for text that is missing from a file there, and only where the configuration names the id: of a local folder
nothing is assumed. Sources: the code of DiT's release (Peebles and Xie 2023, https://github.com/facebookresearch/DiT:
labels in the order of the sorted WordNet ids, latents times 0.18215, frequencies 10000^(-i/128)), and diffusers'
AutoencoderKL, whose default 0.18215 the VAEs of Stable Diffusion 1 were published with.
"""

from __future__ import annotations

import json

from raydistill.config import class_list

SCALING_FACTOR = 0.18215
VAES = (
    *("stabilityai/sd-vae-ft-mse", "stabilityai/sd-vae-ft-ema"),
    *("stable-diffusion-v1-5/stable-diffusion-v1-5", "CompVis/stable-diffusion-v1-4"),  # with the VAE in vae/
)
DITS = ("facebook/DiT-XL-2-256", "facebook/DiT-XL-2-512")

# `main` holds the weights as a pickle, which is never opened; this revision the same as safetensors.
REVISIONS = {"facebook/DiT-XL-2-256": "refs/pr/1"}


def vae_config(name: str | None, config: dict[str, object]) -> str | None:
    """The text of a published VAE's config.json with the scaling_factor that it lacks; None if there is no need."""
    if name not in VAES or config.get("scaling_factor") is not None:
        return None
    return json.dumps(config | {"scaling_factor": SCALING_FACTOR}, indent=2, sort_keys=True) + "\n"


def training(name: str | None) -> str | None:
    """The text of the training.json that a published generator lacks; None for others."""
    if name not in DITS:
        return None
    record = {
        "prediction": "epsilon",
        "class_ids": class_list("imagenet1k"),
        "null_class_index": 1000,
        "learned_variance": True,
        "latent_scale": 1.0,
        "timestep_freq_shift": 0,
        "vae_scaling_factor": SCALING_FACTOR,
    }
    return json.dumps(record, indent=1) + "\n"
