"""The section of `jobs/pretrain.py`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from raydistill.config.base import Fraction, Section


class PretrainConfig(Section):
    """`jobs/pretrain.py`: trains a small VAE, then a class-conditional generator on its latents."""

    target: Annotated[Literal["vae", "generator"], Field(description="what to train")] = "generator"
    out: Annotated[str | None, Field(description="directory to write, in diffusers layout")] = None
    steps: Annotated[int, Field(ge=1, description="optimiser steps")] = 2000
    batch: Annotated[int, Field(ge=1, le=65536)] = 128
    lr: Annotated[float, Field(gt=0, le=10)] = 3e-4
    checkpoint_every: Annotated[int, Field(ge=1, description="steps between checkpoints")] = 250
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.999
    label_dropout: Annotated[Fraction, Field(description="share of labels replaced by the null class")] = 0.1
    kl_weight: Annotated[float, Field(ge=0, description="VAE: weight of the KL term")] = 1e-4
    latent_channels: Annotated[int, Field(ge=1, le=64)] = 4
    vae_channels: Annotated[
        list[int], Field(min_length=1, description="VAE width a level; each but the last halves the size")
    ] = [16, 32, 48]
    layers: Annotated[int, Field(ge=1, le=64, description="generator depth")] = 6
    heads: Annotated[int, Field(ge=1, le=64)] = 4
    head_dim: Annotated[int, Field(ge=4, le=256)] = 32
    patch: Annotated[int, Field(ge=1, le=16)] = 2
    threads: Annotated[int, Field(ge=1, le=256)] = 1
