"""logs/quarantine.tsv: the images that cannot be used, a line each with the reason, for whoever mends them."""

from __future__ import annotations

from collections.abc import Sequence

from raydistill.errors import printable
from raydistill.store.location import Location

NAME = "quarantine.tsv"


def write(logs: Location, broken: Sequence[Sequence[str]]) -> Location:
    """A list of (image, reason): a new one, unless all of them are listed already. Returns where it lies."""
    location, lines = logs / NAME, _lines(broken)
    if not set(lines) <= set(_listed(location)):
        location.write("".join(lines).encode())
    return location


def add(logs: Location, broken: Sequence[Sequence[str]]) -> Location:
    """As `write`, behind what is listed already; several workers may name the same images."""
    location = logs / NAME
    before = _listed(location)
    after = list(dict.fromkeys([*before, *_lines(broken)]))
    if after != before:
        location.write("".join(after).encode())
    return location


def _listed(location: Location) -> list[str]:
    try:
        return location.read().decode().splitlines(keepends=True)
    except FileNotFoundError:
        return []


def _lines(broken: Sequence[Sequence[str]]) -> list[str]:
    return [f"{printable(name)}\t{printable(reason)}\n" for name, reason in broken]
