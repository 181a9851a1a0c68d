"""Loaded networks, kept by what they are: an actor that goes from stage to stage and trial to trial loads each once.

A network is another one if its weights, its device, its precision or the number of torch's threads are others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch

from raydistill.identity import fingerprint
from raydistill.models import denoiser
from raydistill.models.classifier import Classifier, ClassifierSpec
from raydistill.models.denoiser import Denoiser
from raydistill.models.device import Placement
from raydistill.models.generator import Generator
from raydistill.models.vae import Vae, VaeSpec

MOST = 4  # generator, VAE, a network of features and a teacher
_kept: dict[str, Any] = {}  # the one that was used last comes last


def vae(spec: VaeSpec, place: Placement) -> Vae:
    return _once(spec, place, lambda: Vae(spec, place))


def classifier(spec: ClassifierSpec, place: Placement) -> Classifier:
    return _once(spec, place, lambda: Classifier(spec, place), spec.key)


def generator(spec: Generator, place: Placement, cfg_scale: float, cfg_channels: Literal["all", "first3"]) -> Denoiser:
    """A denoiser of its own, by the network that all guidance scales share."""
    net = _once(spec, place, lambda: denoiser.network(spec, place))
    return Denoiser(spec, place, cfg_scale, cfg_channels, net)


def _once(spec: VaeSpec | ClassifierSpec | Generator, place: Placement, load: Callable[[], Any], key: str = "") -> Any:
    """What was loaded for the same spec, which errors name by its path and `key`; room is made before it is loaded."""
    names = type(spec).__name__, str(spec.path), key
    what = fingerprint(*names, spec.identity(), str(place.device), place.kind, torch.get_num_threads())
    found = _kept.pop(what, None)
    if found is None:
        while len(_kept) >= MOST:
            del _kept[next(iter(_kept))]
        found = load()
    _kept[what] = found
    return found
