"""Classifiers of installed libraries: what the families `timm:` and `torchvision:` have in common.

A library is an extra and is imported when one of its networks is asked for. It says itself what a network is shown; its
cropping is left out, for images come here cropped.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from types import ModuleType

from torch import nn

from raydistill.errors import BadInput, one_line

Colours = tuple[float, float, float]


@dataclass(frozen=True)
class LibraryNetwork:
    """One network of a library as an entry of the registry: called with a number of classes it builds it, untrained."""

    build: Callable[[int], nn.Module]  # with `features_of`
    image_size: int
    mean: Colours
    std: Colours

    def __call__(self, classes: int) -> nn.Module:
        return self.build(classes)


def library(family: str, name: str) -> ModuleType:
    """The library of the family, for its network `name`. Raises BadInput that names the extra."""
    try:
        return importlib.import_module(family)
    except ModuleNotFoundError as e:
        if e.name != family:
            raise BadInput(unusable(family, name, e)) from None
        raise BadInput(
            f'{family}:{name}: {family} is not installed here; pip install "raydistill[{family}]", with the '
            "torchvision that belongs to your torch"
        ) from None
    except Exception as e:  # torchvision raises RuntimeError beside a torch of another build, and timm imports it
        raise BadInput(unusable(family, name, e)) from None


def unusable(family: str, name: str, e: Exception) -> str:
    return (
        f"{family}:{name}: {family} is installed but cannot be imported ({one_line(e)}); install the torchvision that "
        "belongs to your torch"
    )


def check_known(family: str, name: str, known: Collection[str]) -> None:
    """Raises BadInput with the nearest names for one that the library does not have."""
    if name not in known:
        alike = [f"{family}:{nearest}" for nearest in difflib.get_close_matches(name, known, n=3)]
        hint = f"; did you mean {' or '.join(map(repr, alike))}?" if alike else ""
        raise BadInput(f"{family} has no classifier {name!r}{hint} ({len(known)} are known)")


def three(values: Collection[float]) -> Colours:
    red, green, blue = map(float, values)
    return red, green, blue
