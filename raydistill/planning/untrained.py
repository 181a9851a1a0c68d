"""Networks that generator.path=train would train first, by their shapes, before anything of them is there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from raydistill.config import Config
from raydistill.config.reads import TRAIN
from raydistill.models import hub
from raydistill.models.checkpoint import read_config
from raydistill.pipeline import trained
from raydistill.planning.networks import config_of
from raydistill.pretraining.networks import build_generator, build_vae
from raydistill.pretraining.origin import RECORDS


def with_finished(config: Config) -> Config:
    """The configuration with those that were trained before in place of `train`. Raises BadInput."""
    if trained.trains_vae(config):
        plan = trained.placed(config, "vae")
        if not plan.finished():
            return config
        config = trained.with_path(config, "vae", str(plan.out))
    plan = trained.placed(config, "generator")
    return trained.with_path(config, "generator", str(plan.out)) if plan.finished() else config


def targets(config: Config) -> tuple[str, ...]:
    """What of `with_finished` is left to train."""
    if config.generator.path != TRAIN:
        return ()
    return ("vae", "generator") if trained.trains_vae(config) else ("generator",)


def vae_config(config: Config) -> Mapping[str, Any] | None:
    """The VAE that would be trained, as a config.json says it; None where none would."""
    if "vae" not in targets(config):
        return None
    with torch.device("meta"):
        return _described(build_vae(config.pretrain, config.source.image_size, config.seed))


def generator_config(config: Config, shape: tuple[int, int, int], classes: int) -> Mapping[str, Any]:
    """The generator that would be trained, as a config.json says it."""
    p = config.pretrain
    if p.init is not None:
        return read_config(config_of(Path(hub.find("generator", p.init, None).folder or "")), "pretrain.init")
    learned = RECORDS[config.generator.objective or "epsilon"]["learned_variance"]
    with torch.device("meta"):
        return _described(build_generator(p, shape, shape[0] * (2 if learned else 1), classes, config.seed))


def _described(net: nn.Module) -> Mapping[str, Any]:
    return {"_class_name": type(net).__name__, **dict(net.config)}
