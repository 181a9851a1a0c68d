"""Runs of which one thing is changed, and a log of what is read: for tests of what a fingerprint knows."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from tiny_run import STAGES, TinyRun

from raydistill.config import Config
from raydistill.evaluation.recipe import Recipe
from raydistill.store.sealed import Sealed


class Log:
    """Which keys were read while it is open."""

    def __init__(self) -> None:
        self.keys: set[str] = set()


def recording(section: BaseModel, log: Log, prefix: str = "") -> Any:
    """The same section, and all below it, telling the log of every field that is read of them."""
    kind = type(section)

    def read(self: BaseModel, name: str) -> Any:
        if name in kind.model_fields:
            log.keys.add(prefix + name)
        return kind.__getattribute__(self, name)

    told = type(kind.__name__, (kind,), {"__getattribute__": read, "__module__": kind.__module__})
    values = {
        name: recording(value, log, f"{prefix}{name}.") if isinstance(value, BaseModel) else value
        for name, value in section.__dict__.items()
    }
    return told.model_construct(**values)


def others(config: Config, key: str) -> Iterator[Config]:
    """Configurations that differ in one key alone, if there are valid ones."""
    *path, name = key.split(".")
    sections: list[Any] = [config]
    for part in path:
        sections.append(getattr(sections[-1], part))
    value = getattr(sections[-1], name)
    for choice in values(type(sections[-1]).model_fields[name].annotation, value):
        try:
            below: Any = type(sections[-1]).model_validate(sections[-1].model_dump() | {name: choice})
        except ValidationError:
            continue
        for part, above in zip(reversed(path), reversed(sections[:-1]), strict=True):
            below = above.model_copy(update={part: below})
        yield below


def values(annotation: Any, value: Any) -> list[Any]:
    """Values that a field of this type might have besides the one that it has."""
    parts = [typing.get_args(annotation)] + [typing.get_args(a) for a in typing.get_args(annotation)]
    chosen: list[Any] = [
        c for args in parts for c in args if isinstance(c, str | int | float) and not isinstance(c, type)
    ]
    if isinstance(value, bool):
        chosen.append(not value)
    elif isinstance(value, int | float):
        chosen += [value + 1, value - 1, value * 2, value / 2, type(value)(1), 0.25]
    elif isinstance(value, list):
        chosen += [value[:1]]
    elif isinstance(value, str):
        chosen += ["ddim"]  # of the keys that a stage reads, only the sampler's name is free text
    elif value is None:
        chosen += [2, 0.5, "ddim"]
    return [c for c in chosen if c != value]


class Changed(TinyRun):
    """A run whose configuration may be another's, over what is upstream in the first."""

    held: dict[str, Sealed]

    def sealed(self, name: str) -> Sealed:
        return self.held[name]


def changed(tiny: TinyRun, config: Config) -> Changed:
    other = Changed.__new__(Changed)
    other.__dict__ |= tiny.__dict__ | {"config": config}
    return other


def finished(root: Path) -> Changed:
    """A finished tiny run, of which all stages are held."""
    run = TinyRun(root)
    run.finish()
    held = changed(run, run.config)
    held.held = {name: run.sealed(name) for name in STAGES}
    return held


def recording_recipe(recipe: Recipe, log: Log) -> Recipe:
    """The same recipe, telling the log of every value that is read of it."""

    class Recorded(Recipe):
        def __getattribute__(self, name: str) -> Any:
            if not name.startswith("__"):
                log.keys.add(name)
            return super().__getattribute__(name)

    return Recorded(**{f.name: getattr(recipe, f.name) for f in fields(Recipe)})
