"""The section of `jobs/pretrain.py`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from raydistill.config.base import Fraction, Section


class PretrainConfig(Section):
    """`jobs/pretrain.py`: trains a small VAE, then a class-conditional generator on its latents."""

    target: Annotated[Literal["vae", "generator"], Field(description="what to train")] = "generator"
    out: Annotated[str | None, Field(description="directory to write, in diffusers layout")] = None
    init: Annotated[
        str | None,
        Field(
            description="generator to fine-tune, a directory or OWNER/NAME; null = from scratch, by layers, heads, ..."
        ),
    ] = None
    class_map: Annotated[
        dict[str, str] | None,
        Field(description="with init, {mine: theirs}: the class of the checkpoint as which one of mine begins"),
    ] = None
    trainable: Annotated[
        Literal["all", "vectors"],
        Field(
            description="with init: all weights, or only vectors (biases, norms, scales) and the rows of new classes"
        ),
    ] = "all"
    steps: Annotated[int, Field(ge=1, description="optimiser steps")] = 2000
    batch: Annotated[int, Field(ge=1, le=65536, description="images a step, shared out over the workers")] = 128
    workers: Annotated[
        int,
        Field(ge=1, le=1024, description="Ray Train workers; each holds all latents"),
    ] = 1
    num_gpus: Annotated[
        int | None,
        Field(
            ge=0,
            le=1,
            description="GPUs a worker; null = 1 if there are any when it begins; 1 makes a growing cluster start some",
        ),
    ] = None
    lr: Annotated[
        float, Field(gt=0, le=10, description="peak learning rate: warm-up over 2 % of the steps, cosine")
    ] = 3e-4
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16"],
        Field(description="generator: of the network's arithmetic; auto = bfloat16 on a GPU, float32 on the CPU"),
    ] = "auto"
    time: Annotated[
        Literal["uniform", "logit_normal"],
        Field(description="generator: noise levels, evenly, or more of the middle ones (sigmoid of a normal)"),
    ] = "uniform"
    checkpoint_every: Annotated[int, Field(ge=1, description="steps between checkpoints")] = 250
    validate_every: Annotated[
        int | None,
        Field(
            ge=1, description="generator: steps between validation losses with sample grids; null = a tenth of steps"
        ),
    ] = None
    ema: Annotated[float, Field(ge=0, lt=1, description="decay of the averaged weights, which are what is written")] = (
        0.999
    )
    label_dropout: Annotated[
        Fraction, Field(description="share of labels replaced by the null class, for classifier-free guidance")
    ] = 0.1
    kl_weight: Annotated[float, Field(ge=0, description="VAE: weight of the KL term")] = 1e-4
    latent_channels: Annotated[int, Field(ge=1, le=64, description="VAE: channels of its latents")] = 4
    vae_channels: Annotated[
        list[Annotated[int, Field(ge=1, le=65536)]],
        Field(min_length=1, description="VAE width a level; each but the last halves the size"),
    ] = [16, 32, 48]
    layers: Annotated[int, Field(ge=1, le=64, description="generator depth")] = 6
    heads: Annotated[int, Field(ge=1, le=64, description="generator: attention heads")] = 4
    head_dim: Annotated[
        int, Field(ge=4, le=256, description="generator: width of a head; heads x head_dim is its own")
    ] = 32
    patch: Annotated[int, Field(ge=1, le=16, description="generator: latent pixels a side of a token")] = 2
    threads: Annotated[int, Field(ge=1, le=256, description="torch threads of a worker")] = 1
