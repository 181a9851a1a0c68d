"""Small made-up latents, and tasks that train a generator on them: for tests of pretraining."""

from __future__ import annotations

import numpy as np
import torch

from raydistill.config import Config, load
from raydistill.pretraining.data import TrainingLatents
from raydistill.pretraining.origin import from_scratch
from raydistill.pretraining.tasks import GeneratorTask
from raydistill.sources.base import ClassInfo

TINY = [
    "pretrain.steps=6",
    "pretrain.batch=4",
    "pretrain.checkpoint_every=2",
    "pretrain.layers=1",
    "pretrain.heads=2",
    "pretrain.head_dim=8",
    "pretrain.vae_channels=[8,8]",
    "pretrain.latent_channels=2",
]
CLASSES = [ClassInfo(str(i), f"class {i}") for i in range(3)]


def tiny(*overrides: str) -> Config:
    return load("quickstart", [*TINY, *overrides])


def training_latents(values: np.ndarray, labels: np.ndarray) -> TrainingLatents:
    """Latents in the order in which they are given."""
    return TrainingLatents(values.astype(np.float16), labels.astype(np.int64), np.arange(len(labels)))


def random_latents(count: int = 20, shape: tuple[int, int, int] = (2, 4, 4), seed: int = 5) -> TrainingLatents:
    rng = np.random.default_rng(seed)
    return training_latents(rng.standard_normal((count, *shape)), np.arange(count) % 3)


def generator_task(*overrides: str, seed: int = 0, latents: TrainingLatents | None = None) -> GeneratorTask:
    """Of three classes; the network is built for the latents (C, h, w)."""
    latents = latents or random_latents()
    config = tiny(f"seed={seed}", *overrides)
    origin = from_scratch(config.generator.objective or "epsilon", CLASSES)
    net = origin.network(config, latents.values.shape[1:])
    return GeneratorTask(config.pretrain, seed, origin, net, latents, origin.labels(CLASSES), torch.device("cpu"))
