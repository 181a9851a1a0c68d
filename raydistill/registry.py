"""name -> class per kind: the only dispatch. A new method, guidance, sampler, student, metric, source is a new file.

A kind's package is scanned on first use, so dropping a file into it registers what it decorates. Other packages add
entries through the entry-point group `raydistill.KIND` (plug-ins); one that cannot be used is a warning, and an error
for whoever asks for it. A name that ends in a colon is a family: `timm:resnet18` is
what the entry `timm:` makes of `resnet18`.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any, TypeVar

from raydistill import code_identity
from raydistill.errors import BadInput, one_line

PACKAGES = {
    "source": "raydistill.sources",
    "clustering": "raydistill.clustering",
    "guidance": "raydistill.guidance",
    "sampler": "raydistill.diffusion.samplers",
    "method": "raydistill.methods",
    "student": "raydistill.evaluation.students",
    "exporter": "raydistill.exporters",
    "classifier": "raydistill.models.classifiers",
    "metric": "raydistill.metrics",
    "protocol": "raydistill.evaluation.protocols",
}

WITH_SECTIONS = ("guidance", "sampler", "method", "metric")  # kinds whose entries may bring a section of their own

_entries: dict[str, dict[str, Any]] = {kind: {} for kind in PACKAGES}
_loaded: set[str] = set()
_unusable: dict[tuple[str, str], str] = {}  # plug-ins by kind and name: which, and why
T = TypeVar("T")


def register(kind: str, name: str) -> Callable[[T], T]:
    """Decorator (or call) that enters an object under (kind, name). Raises ValueError on a second owner of a name."""

    def enter(obj: T) -> T:
        if name in _entries[kind] and _entries[kind][name] is not obj:
            raise ValueError(f"{kind} {name!r} is registered twice")
        _entries[kind][name] = obj
        return obj

    return enter


def _load(kind: str) -> None:
    if kind in _loaded:
        return
    _loaded.add(kind)
    package = importlib.import_module(PACKAGES[kind])
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    for point in entry_points(group=f"raydistill.{kind}"):
        before = dict(_entries[kind])
        try:
            register(kind, point.name)(point.load())
        except (Exception, SystemExit) as e:  # whatever the package of somebody else raises
            _entries[kind] = before  # and half of it is not kept
            _leave_out(kind, point.name, f"the entry point {point.value!r} of an installed package", one_line(e))


def _leave_out(kind: str, name: str, what: str, why: str) -> None:
    """The plug-in is warned of once a process; who asks for it gets the same line as an error."""
    line = f"{kind} {name!r}: {what} cannot be used: {why}; mend that package or uninstall it"
    if _unusable.get((kind, name)) != line:
        print(f"warning: {one_line(line)}", file=sys.stderr, flush=True)
    _unusable[kind, name] = line


def unusable() -> list[str]:
    """Of each plug-in that was met and cannot be used the line that says why."""
    return list(_unusable.values())


def entry(kind: str, name: str) -> Any:
    """What is registered under exactly this name, a family too. Raises KeyError."""
    _load(kind)
    return _entries[kind][name]


def shipped(kind: str) -> list[str]:
    """Names of the entries, families among them, that are raydistill's own."""
    _load(kind)
    return sorted(n for n, e in _entries[kind].items() if e.__module__.startswith("raydistill."))


def identity(kind: str, name: str) -> list[Any]:
    """What tells an entry's code apart, to go into the fingerprint of whatever used it.

    Nothing for an entry that ships, at version 1 and as it was released; its version from 2 on; version and digest of
    the source for one that was edited or comes from elsewhere.
    """
    instance = get(kind, name)
    family, colon, _ = name.partition(":")
    registered = _entries[kind][family + colon] if name not in _entries[kind] else instance
    version, source = getattr(registered, "version", 1), code_identity.of(registered)
    if code_identity.released().get(f"{kind}/{family + colon if registered is not instance else name}") == [
        version,
        source,
    ]:
        return [] if version == 1 else [version]
    return [version, source]


def sections() -> dict[str, Any]:
    """The sections of the configuration that entries declare as their own, key -> class. Loads every kind that may."""
    declarations: dict[str, Any] = {}
    for kind in WITH_SECTIONS:
        for name in names(kind):
            declared = getattr(_entries[kind][name], "section", None)
            if declared is not None and declarations.setdefault(*declared) is not declared[1]:
                raise BadInput(f"{kind} {name!r} declares section {declared[0]!r}, which another entry has; rename it")
    return declarations


def names(kind: str) -> list[str]:
    """Names of a kind that can be asked for, sorted; families, whose members are not known, left out."""
    _load(kind)
    return sorted(n for n in _entries[kind] if not n.endswith(":") and (kind, n) not in _unusable)


def families(kind: str) -> list[str]:
    """Registered families of a kind, sorted, each with its colon."""
    _load(kind)
    return sorted(n for n in _entries[kind] if n.endswith(":"))


def knows(kind: str, name: str) -> bool:
    """Whether `name` is an entry, or of the form FAMILY:MEMBER; which members a family has is its own business."""
    family, _, member = name.partition(":")
    return name in names(kind) or (bool(member) and f"{family}:" in families(kind))


def get(kind: str, name: str) -> Any:
    """The entry, or what a family makes of a member's name.

    Raises BadInput that names the nearest entry, or the plug-in of this name and its own error.
    """
    _load(kind)
    for named in (name, "".join(name.partition(":")[:2])):
        if (kind, named) in _unusable:
            raise BadInput(_unusable[kind, named])
    if name in _entries[kind] and not name.endswith(":"):
        return _entries[kind][name]
    family, colon, member = name.partition(":")
    if member and family + colon in _entries[kind]:
        return _entries[kind][family + colon](member)
    alike = difflib.get_close_matches(name, names(kind), n=1)
    hint = f"; did you mean {alike[0]!r}?" if alike else ""
    known = names(kind) + [f"{family}NAME" for family in families(kind)]
    raise BadInput(f"unknown {kind} {name!r}{hint} (known: {', '.join(known)})")
