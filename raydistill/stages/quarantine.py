"""logs/quarantine.tsv: the images that cannot be used, a line each with the reason, for whoever mends them."""

from __future__ import annotations

from collections.abc import Sequence

from raydistill.errors import printable
from raydistill.store.location import Location

NAME = "quarantine.tsv"


def write(logs: Location, broken: Sequence[Sequence[str]]) -> Location:
    """A new list of (image, reason). Returns where it lies."""
    location = logs / NAME
    location.write("".join(_lines(broken)).encode())
    return location


def add(logs: Location, broken: Sequence[Sequence[str]]) -> Location:
    """As `write`, behind what is listed already; several workers may name the same images."""
    location = logs / NAME
    try:
        before = location.read().decode().splitlines(keepends=True)
    except FileNotFoundError:
        before = []
    after = list(dict.fromkeys([*before, *_lines(broken)]))
    if after != before:
        location.write("".join(after).encode())
    return location


def _lines(broken: Sequence[Sequence[str]]) -> list[str]:
    return [f"{printable(name)}\t{printable(reason)}\n" for name, reason in broken]
