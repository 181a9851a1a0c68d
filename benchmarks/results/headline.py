"""A table of a few rows for the README: accuracy and the difference to one of them, each with its interval."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from grids import markdown, with_cells
from intervals import accuracy, over_classes, shown

from raydistill.report import wording
from raydistill.results import differences
from raydistill.tune.outcomes import outcomes


def table(module: Any, args: argparse.Namespace, rows: Mapping[str, str], against: str, protocol: str = "hard") -> str:
    """`rows` are the names in the table by the rows of the grid; differences are to the row `against`."""
    (ipc,) = args.ipc
    there = {row.name: cells for row, cells in with_cells(args, module.rows(args), ipc, protocol) if row.name in rows}
    of_row = {name: outcomes(name, cells) for name, cells in there.items()}
    lines = []
    for name in (n for n in rows if n in there):
        top1 = accuracy(of_row[name])
        d = None if name == against or against not in of_row else differences.difference(of_row[name], of_row[against])
        bounds = "–" if d is None else wording.interval(d.tested_low, d.tested_high)
        lines.append([
            rows[name],
            f"{there[name][0]['calls']:g}" if "calls" in there[name][0] else "–",  # older cells do not know
            f"{top1.cells[0]} {shown(top1.images or top1.seeds)}",
            over_classes(of_row[name]),
            "–" if d is None else f"{wording.points(d.mean)} {wording.interval(d.low, d.high)}",
            bounds,
            "–" if d is None else f"{d.pairs}",
        ])  # fmt: skip
    head = ["set", "network calls an image", "last top-1, % [95 %]", "a class, %", f"− {rows[against]} [seeds]",
            "[and images]", "pairs"]  # fmt: skip
    return markdown(head, lines)
