"""What each piece of a method is worth: of the pairs of a table those that differ in one, with it less without it."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from grids import markdown, with_cells
from intervals import compared_by

from raydistill.report import wording
from raydistill.report.data import Difference
from raydistill.results import differences
from raydistill.tune.outcomes import outcomes

HEAD = ["piece", "with it", "without it", "difference", "95 %, seeds", "and images", "p, Holm", "pairs", "says"]
Pairs = Sequence[tuple[str, str]]


def table(module: Any, args: argparse.Namespace, pieces: Mapping[str, Pairs]) -> str:
    """A line for each pair of rows (with the piece, without it) that has cells, under every protocol of the grid. Holm
    is over all pairs of the grid's own table, not over these alone. One IPC. Raises ValueError for a name that is no
    row of the grid."""
    (ipc,) = args.ipc
    names = {row.name for row in module.rows(args)}
    if unknown := sorted({name for pairs in pieces.values() for pair in pairs for name in pair} - names):
        raise ValueError(f"no rows of the grid: {', '.join(unknown)}")
    several = len(args.protocols) > 1
    lines = []
    for protocol in args.protocols:
        kept = with_cells(args, module.rows(args), ipc, protocol)
        every = [o for row, cells in kept for o in outcomes(row.name, cells)]
        of_pair = {(d.a, d.b): d for pair in differences.table(every, compared_by(every)[:1]) for d in both(pair)}
        lines += [
            ([protocol] if several else []) + line(piece, of_pair[pair])
            for piece, pairs in pieces.items()
            for pair in map(tuple, pairs)
            if pair in of_pair
        ]
    return markdown([*(["protocol"] if several else []), *HEAD], lines) if lines else ""


def both(d: Difference) -> tuple[Difference, Difference]:
    return d, d.turned()


def line(piece: str, d: Difference) -> list[str]:
    seeds, images = wording.interval(d.low, d.high), wording.interval(d.tested_low, d.tested_high)
    holm = "–" if d.holm is None else f"{d.holm:.2g}"
    return [piece, d.a, d.b, wording.points(d.mean), seeds, images, holm, f"{d.pairs}", wording.verdict(d)]
