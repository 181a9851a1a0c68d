"""Stable Diffusion 1 in small: every part of the real pipeline, untrained, as diffusers writes it to disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

LIMIT = 12  # tokens of a prompt, its two ends included
WORDS = ["zero", "one", "seven", "nine", "three", "a", "photo", "of", "cartoon", "anime", "painting"]
SCHEDULER = {  # of Stable Diffusion 1.5, whose _class_name is PNDMScheduler
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "skip_prk_steps": True,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


def write_tokenizer(folder: Path) -> Path:
    """The files of Stable Diffusion 1's: letters, some words merged of them, and two ends."""
    merges: list[str] = []
    for word in WORDS:
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            merges.append(f"{parts[0]} {parts[1]}")
            parts = [parts[0] + parts[1], *parts[2:]]
    merges = list(dict.fromkeys(merges))
    letters = [*"abcdefghijklmnopqrstuvwxyz0123456789,."]
    names = [*letters, *(c + "</w>" for c in letters), *(m.replace(" ", "") for m in merges)]
    ends = ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {name: i for i, name in enumerate([*dict.fromkeys(names), *ends])}
    special = {"bos_token": ends[0], "eos_token": ends[1], "pad_token": ends[1], "unk_token": ends[1]}
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": LIMIT, "do_lower_case": True, **special}
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    return folder


def tiny_pipeline(beside: Path, predicts: str = "epsilon") -> Any:
    """diffusers' own pipeline, 8x8x4 latents of 32 pixels. Needs transformers."""
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(str(write_tokenizer(beside)))
    torch.manual_seed(0)
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=LIMIT,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    net = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32,
        norm_num_groups=8,
        attention_head_dim=4,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=32,
        scaling_factor=0.18215,
    )
    scheduler = PNDMScheduler(**SCHEDULER, prediction_type=predicts)
    return StableDiffusionPipeline(
        vae, CLIPTextModel(text), tokenizer, net, scheduler, None, None, requires_safety_checker=False
    )
