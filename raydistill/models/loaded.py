"""Loaded networks, kept by what they are: an actor that goes from stage to stage and trial to trial loads each once.

A network is another one if its weights, its device, its precision or the number of torch's threads are others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, overload

import torch

from raydistill.identity import fingerprint
from raydistill.models import denoiser
from raydistill.models.classifier import Classifier, ClassifierSpec
from raydistill.models.denoiser import Denoiser
from raydistill.models.device import Placement
from raydistill.models.generator import Generator
from raydistill.models.latent_classifier import LatentClassifier, LatentClassifierSpec
from raydistill.models.vae import Vae, VaeSpec

MOST = 5  # generator, VAE, another decoder, and two that judge: of features and a teacher, or a curriculum's
_kept: dict[str, Any] = {}  # the one that was used last comes last


def vae(spec: VaeSpec, placement: Placement) -> Vae:
    return _once(spec, placement, lambda: Vae(spec, placement))


@overload
def classifier(spec: ClassifierSpec, placement: Placement) -> Classifier: ...


@overload
def classifier(spec: LatentClassifierSpec, placement: Placement) -> LatentClassifier: ...


def classifier(spec: ClassifierSpec | LatentClassifierSpec, placement: Placement) -> Classifier | LatentClassifier:
    if isinstance(spec, LatentClassifierSpec):
        return _once(spec, placement, lambda: LatentClassifier(spec, placement), spec.key)
    return _once(spec, placement, lambda: Classifier(spec, placement), spec.key)


def generator(
    spec: Generator,
    placement: Placement,
    cfg_scale: float,
    cfg_channels: Literal["all", "first3"],
    differentiable: bool = False,
) -> Denoiser:
    """A denoiser of its own, by the network that all guidance scales share."""
    key = "differentiable" if differentiable else ""
    net = _once(spec, placement, lambda: denoiser.network(spec, placement, differentiable), key)
    return Denoiser(spec, placement, cfg_scale, cfg_channels, net)


def _once(
    spec: VaeSpec | ClassifierSpec | LatentClassifierSpec | Generator,
    placement: Placement,
    load: Callable[[], Any],
    key: str = "",
) -> Any:
    """What was loaded for the same spec, which errors name by its path and `key`; room is made before it is loaded."""
    names = type(spec).__name__, str(spec.path), key
    what = fingerprint(*names, spec.identity(), str(placement.device), placement.kind, torch.get_num_threads())
    network = _kept.pop(what, None)
    if network is None:
        while len(_kept) >= MOST:
            del _kept[next(iter(_kept))]
        network = load()
    _kept[what] = network
    return network
