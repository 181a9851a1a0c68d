"""timm and torchvision for tests: themselves where they are installed, or else stand-ins of what is asked of them."""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor, nn

FAMILIES = ("timm", "torchvision")
MEMBERS = [f"{family}:resnet18" for family in FAMILIES]
DETECTION = ("nms", "qnms")  # operators of torchvision's compiled half that its import asks for, and no classifier
_declared: list[torch.library.Library] = []  # forgotten with its object


def installed(family: str) -> bool:
    """timm imports torchvision."""
    return all(find_spec(library) is not None for library in {"torchvision", family})


def require(family: str) -> types.ModuleType:
    """The library itself; skips where it is not installed.

    A torchvision of another build than torch's lacks its compiled half; all that its classifiers need is Python.
    """
    if not installed(family):
        pytest.skip(f"{family} is not installed here; pip install --no-deps timm torchvision")
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        _declared.append(torch.library.Library("torchvision", "DEF"))
        for name in DETECTION:
            _declared[-1].define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        for name in [n for n in sys.modules if n.split(".")[0] in FAMILIES]:
            del sys.modules[name]
    return importlib.import_module(family)


class Small(nn.Module):
    """What a stand-in builds: a network of no library, with the calls of timm's."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem, self.fc = nn.Conv2d(3, 8, 3, 2), nn.Linear(8, classes)

    def forward_features(self, x: Tensor) -> Tensor:
        return self.stem(x).relu()

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = x.mean((2, 3))
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


@dataclass(frozen=True)
class PretrainedCfg:
    """Of timm; its `to_dict` too."""

    input_size: tuple[int, int, int] = (3, 40, 40)
    mean: tuple[float, ...] = (0.5, 0.4, 0.3)
    std: tuple[float, ...] = (0.25, 0.25, 0.25)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def _module(name: str) -> types.ModuleType:
    """With a spec, by which others see whether it is there."""
    module = types.ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    return module


def _timm() -> types.ModuleType:
    timm = _module("timm")
    cfgs = {"resnet18": PretrainedCfg(), "resnet18.a1": PretrainedCfg(), "resnet18.small": PretrainedCfg((3, 24, 24))}

    def create_model(name: str, pretrained: bool, num_classes: int) -> nn.Module:
        assert name in cfgs and not pretrained
        return Small(num_classes)

    more: dict[str, Any] = {
        "list_models": lambda: ["resnet18"],
        "list_pretrained": lambda: ["resnet18.a1", "resnet18.small"],
        "get_pretrained_cfg": lambda name: cfgs[name],
        "is_model": lambda name: name.partition(".")[0] == "resnet18",
        "get_pretrained_cfg_value": lambda name, key: False,
        "create_model": create_model,
        "data": types.SimpleNamespace(resolve_data_config=lambda args=None, pretrained_cfg=None: pretrained_cfg),
    }
    vars(timm).update(more)
    return timm


def _torchvision() -> types.ModuleType:
    torchvision, models = _module("torchvision"), _module("torchvision.models")
    shown = types.SimpleNamespace(crop_size=[40], mean=[0.5, 0.4, 0.3], std=[0.25, 0.25, 0.25])
    weights = types.SimpleNamespace(DEFAULT=types.SimpleNamespace(transforms=lambda: shown))

    def get_model(name: str, weights: None, num_classes: int) -> nn.Module:
        assert name in models.list_models(models)
        return Small(num_classes)

    more: dict[str, Any] = {
        "list_models": lambda module: ["resnet18", "resnet34"] if module is models else ["resnet18", "a detector"],
        "get_model_weights": lambda name: weights,
        "get_model": get_model,
    }
    vars(models).update(more)
    torchvision.models = models  # type: ignore[attr-defined]
    return torchvision


@contextmanager
def stand_ins() -> Iterator[None]:
    """Both libraries replaced."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "timm", _timm())
        patch.setitem(sys.modules, "torchvision", _torchvision())
        yield


@contextmanager
def provided(family: str) -> Iterator[None]:
    """The library itself, or its stand-in where it is not installed."""
    if installed(family):
        require(family)
        yield
    else:
        with stand_ins():
            yield
