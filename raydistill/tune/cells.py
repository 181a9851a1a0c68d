"""Rows, and their cells: one run of the pipeline each, kept as a JSON file by which it is found again.

A row whose samples run off to infinity has a cell that says so: that is a result, too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from raydistill.report.scores import FULL, TO_THE_END

WHOLE = (FULL, TO_THE_END)  # rows that train on all images and sample nothing
DIVERGED = "diverged"  # the key of a cell without numbers: why


@dataclass(frozen=True)
class Row:
    """A name and the overrides that make it. `numbers` are what the study knows of it and its cells keep, `seeds` its
    generation seeds where they are not those of the study."""

    name: str
    overrides: tuple[str, ...]
    numbers: tuple[tuple[str, Any], ...] = ()
    seeds: tuple[int, ...] = ()


@dataclass(frozen=True)
class Cell:
    row: Row
    ipc: int
    seed: int
    protocol: str = ""  # where it is not that of the configuration

    def __str__(self) -> str:
        return ", ".join(filter(None, (f"ipc {self.ipc}", self.protocol, self.row.name, f"seed {self.seed}")))

    def path(self, out: Path) -> Path:
        name = re.sub(r"[^A-Za-z0-9.]+", "_", self.row.name)
        return out / ("-".join(filter(None, (f"ipc{self.ipc}", self.protocol, name, f"seed{self.seed}"))) + ".json")

    def read(self, out: Path) -> dict[str, Any] | None:
        """What is kept of it; None before it is finished."""
        path = self.path(out)
        return json.loads(path.read_text()) if path.exists() else None

    def about(self) -> dict[str, Any]:
        """What it keeps besides its results."""
        return {"row": self.row.name, "ipc": self.ipc, "seed": self.seed, **dict(self.row.numbers)}


def grid(
    rows: Sequence[Row], seeds: Sequence[int], ipcs: Sequence[int], protocols: Sequence[str] = ("",)
) -> list[Cell]:
    """All cells, in the order in which they are computed: every row of a seed before the next seed."""
    every = dict.fromkeys(s for r in rows for s in r.seeds or seeds)
    return [
        Cell(row, ipc, seed, protocol)
        for ipc, protocol, seed, row in product(ipcs, protocols, every, rows)
        if seed in (row.seeds or seeds)
    ]


def finished(cells: Sequence[Cell], out: Path) -> list[dict[str, Any]]:
    """What is kept of those that are finished and have numbers."""
    return [kept for cell in cells if (kept := cell.read(out)) is not None and DIVERGED not in kept]


def diverged(cells: Sequence[Cell], out: Path) -> list[Cell]:
    """Those that are finished and have none."""
    return [cell for cell in cells if DIVERGED in (cell.read(out) or {})]


def write(path: Path, kept: dict[str, Any]) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".tmp").write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
    path.with_suffix(".tmp").rename(path)
