"""What a dataclass declares that it reads: its fields, which in their order are its identity.

    vae: VaeSpec                                                whole, by what it says of itself
    encode: Annotated[EncodeConfig, Keys("chunk", "batch")]     of a section, the keys that are read
    split: Aside[str]                                           nothing: it decides no byte

Any other annotation is a function of the value and of the dataclass, which gives the parts that the field adds (in a
lambda nothing is seen but its arguments). A field that is declared later adds nothing at the value that stands for what
was before it (`Since`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from operator import attrgetter
from typing import Annotated, Any, Protocol, TypeVar, get_type_hints, runtime_checkable

T = TypeVar("T")
Parts = Callable[[Any, Any], Sequence[Any]]  # the value of a field, the dataclass -> JSON-able parts of its identity


@runtime_checkable
class Identified(Protocol):
    """Says itself what it is: a network, by its files."""

    def identity(self) -> Any: ...


class Keys:
    """Of a value only these attributes, dotted names among them, each a part."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def __call__(self, value: Any, _: Any) -> list[Any]:
        return [attrgetter(name)(value) for name in self.names]


class Since:
    """The whole value, or nothing where it is the default: what was there before the field was declared."""

    def __init__(self, default: Any) -> None:
        self.default = default

    def __call__(self, value: Any, owner: Any) -> list[Any]:
        return [] if value == self.default else whole(value, owner)


def whole(value: Any, _: Any) -> list[Any]:
    """One part: what the value says of itself, or the value."""
    return [value.identity() if isinstance(value, Identified) else value]


def nothing(_: Any, __: Any) -> list[Any]:
    return []


def spread(value: Sequence[Any], _: Any) -> list[Any]:
    return list(value)


Aside = Annotated[T, nothing]  # decides no byte (a place, who computes), or stands in what another field adds
Spread = Annotated[T, spread]  # a sequence, of which each element is a part


def parts(owner: Any) -> list[Any]:
    """What the fields of a dataclass add to its identity, in their order."""
    hints = get_type_hints(type(owner), include_extras=True)
    return [part for f in fields(owner) for part in _adds(hints[f.name])(getattr(owner, f.name), owner)]


def _adds(hint: Any) -> Parts:
    return hint.__metadata__[0] if hasattr(hint, "__metadata__") else whole
