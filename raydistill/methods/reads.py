"""Which sections of the configuration decide how the images of a method come about."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from raydistill import registry
from raydistill.config import Config, StartConfig
from raydistill.methods.base import Method

# What methods beside the run's own do not take over from its configuration (resolve.beside).
OF_MAIN = ("start", "cluster.algorithm", "guidance.form")


def sections(config: Config, method: Method | None = None) -> tuple[str, ...]:
    """Those that a method reads, by default that of the configuration: its own, and those of its clustering, sampler
    and guidance."""
    method = method or registry.get("method", config.method).of(config)
    keys = _own(method)
    if method.uses_prototypes:
        keys += ["cluster", "hierarchy"]
    if method.uses_points:
        keys.append("selection")
    if not method.generates:
        return tuple(keys)
    keys += ["sampler", *_own(registry.get("sampler", config.sampler.name or method.sampler))]
    if method.start.noised or config.start != StartConfig():
        keys.append("start")
    for name in (*filter(None, [method.guidance]), *method.terms):
        guidance = registry.get("guidance", name)
        keys += _own(guidance)
        if guidance.spaces != ("velocity",) and name == method.guidance:
            keys.append("guidance")
    return tuple(keys)


def is_read(key: str, prefixes: Iterable[str]) -> bool:
    """Whether a dotted key is one of these keys, or lies in one of these sections."""
    return any(key == p or key.startswith(f"{p}.") for p in prefixes)


def readers(key: str) -> list[str]:
    """The methods that read a key, each as it is unless something else is said."""
    return [n for n in registry.names("method") if is_read(key, sections(Config().model_copy(update={"method": n})))]


def chosen_by(key: str) -> str | None:
    """The choice by which a key of a method, a guidance or a sampler would be read; None for any other key."""
    samplers = [n for n in registry.names("sampler") if is_read(key, _own(registry.get("sampler", n)))]
    choices = [f"method={n}" for n in readers(key)] + [f"sampler.name={n}" for n in samplers]
    return next(iter(choices), None)


def _own(entry: Any) -> list[str]:
    """The key of the section that an entry brings."""
    section = getattr(entry, "section", None)
    return [] if section is None else [section[0]]
