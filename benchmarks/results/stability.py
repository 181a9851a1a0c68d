"""How steady guidance is as it grows, for PGFM and for MGD3: accuracy, landing, length of the way and diversity.

    python benchmarks/results/stability.py --config nette128 --flow FLOW --noise NOISE --ipc 1 10 \
        --work runs/stability -- source.path=DIR vae.path=DIR

Rows: `pgfm W` with path.w_max = W on the flow generator for each of --pgfm, `mgd3 S` with guidance.scale = S on the
noise generator for each of --mgd3. 0 is unguided (pgfm without its warm start, too) and always among them. Run again
after an interruption, it computes only what is missing; `--only ROW` computes one row; `--print` nothing.

    landing   distance of the final latent to its prototype per sqrt(D), mean over slots
    pull      1 - landing / landing of the same method, IPC and seed unguided: 0 = unguided, 1 = on the prototype
    way       sum |x_{k+1} - x_k| over |x_n - x_0|, mean over slots; of mgd3 over the first batch, with DDPM's own noise

What follows `--` may set the rest of a method for all of its rows: path.t0=0 is pgfm without its warm start, whose pull
is part of every row otherwise; guidance.stop=0.1 is mgd3 over nearly all of the path.

Strengths of the two methods mean different things. They are compared at the same pull: beside each guided row of pgfm
stands what mgd3 has there, by straight lines between its own cells in the order of their pull.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import figure
import grids
from grids import (
    OVER,
    accuracies,
    accuracy,
    carry,
    compared,
    compute,
    diverged,
    first_batch,
    grid,
    markdown,
    mean,
    metric,
    over,
    parser,
    shown,
    two_generators,
    with_cells,
    with_generators,
)

from raydistill import entry
from raydistill.diffusion.walk import Walk
from raydistill.state import Results
from raydistill.tune.cells import Row

OWN, OTHER = "pgfm", "mgd3"
FARTHEST = -0.5  # pull: what is below it is not drawn
MEASURES = {"last": "last top-1, %", "landing": "landing", "detour": "way", "diversity": "diversity"}


def rows(args: argparse.Namespace) -> list[Row]:
    rows = []
    if args.flow:
        for w in sorted({0.0, *args.pgfm}):
            overrides = [f"path.w_max={w:g}", *(["path.t0=0"] if w == 0 else [])]
            rows.append(row(OWN, w, args.flow, overrides))
    if args.noise:
        rows += [row(OTHER, s, args.noise, [f"guidance.scale={s:g}"]) for s in sorted({0.0, *args.mgd3})]
    return rows


def row(method: str, strength: float, generator: Path, overrides: list[str]) -> Row:
    name = f"{method} {strength:g}"
    return Row(name, (f"method={method}", f"generator.path={generator}", *overrides), (("strength", strength),))


def walked(done: Results) -> dict[str, Any]:
    """The way of diffusion's samples, over again for the first batch: no artifact holds it. Of flows the trace does."""
    v = done.prepared.variants[0]
    if v.sampling is None or v.sampling.flows:
        return {}
    walk = Walk(v.sampling.make_sampler())
    with first_batch(done, replace(v, sampling=replace(v.sampling, kind=Once(walk), settings=None))) as sampled:
        sampled()
    return {"detour": mean(walk.path_ratio.cpu().numpy())}


class Once:
    """In place of a class of samplers: a walk around the one that samples."""

    def __init__(self, walk: Walk) -> None:
        self.walk, self.spaces = walk, walk.spaces

    def __call__(self) -> Walk:
        return self.walk


def pulls(cells: Sequence[dict[str, Any]], free: Sequence[dict[str, Any]]) -> list[float]:
    """1 - landing / unguided landing of the same seed, of every cell that has such a one."""
    base = {c["seed"]: c["landing"] for c in free}
    return [1 - c["landing"] / base[c["seed"]] for c in cells if c["seed"] in base]


def values(cells: Sequence[dict[str, Any]], measure: str) -> list[float]:
    if measure == "last":
        return accuracies(cells, "last")
    if measure == "diversity":
        return metric(cells, "diversity")
    return [c[measure] for c in cells if c[measure] is not None]


def curves(args: argparse.Namespace, ipc: int) -> dict[str, list[dict[str, Any]]]:
    """Of each method its rows with their pull, in the order of it; those without an unguided cell are left out."""
    by_method: dict[str, list[dict[str, Any]]] = {}
    there = list(with_cells(args, rows(args), ipc))
    for method in (OWN, OTHER):
        free = next((cells for r, cells in there if r.name == f"{method} 0"), [])
        for r, cells in there:
            pull = pulls(cells, free) if r.name.startswith(f"{method} ") else []
            if pull:
                point = {"row": r, "cells": cells, "pull": statistics.mean(pull)}
                by_method.setdefault(method, []).append(point)
    return {method: sorted(points, key=lambda p: p["pull"]) for method, points in by_method.items()}


def matched(curve: Sequence[dict[str, Any]], pull: float, measure: str) -> float | None:
    """What a method has at a pull, by straight lines between its cells; None outside of what they span."""
    known = [(p["pull"], statistics.mean(v)) for p in curve if (v := values(p["cells"], measure))]
    if not known or not known[0][0] <= pull <= known[-1][0]:
        return None
    return float(np.interp(pull, *zip(*known, strict=True)))


def summary(args: argparse.Namespace) -> str:
    """Two Markdown tables of the cells that are there: every row, and both methods at the pulls of pgfm."""
    lines, pairs = [], []
    for ipc in args.ipc:
        by_method = curves(args, ipc)
        for points in by_method.values():
            for p in sorted(points, key=lambda p: dict(p["row"].numbers)["strength"]):
                c = p["cells"]
                lines.append([
                    str(ipc), p["row"].name, f"{p['pull']:.2f}", shown(values(c, "landing"), 3),
                    shown(values(c, "detour")), shown(values(c, "diversity"), 3),
                    accuracy(c, "last"), accuracy(c, "best"), over(c),
                ])  # fmt: skip
        for p in by_method.get(OWN, []) if OTHER in by_method else ():
            if dict(p["row"].numbers)["strength"] == 0:
                continue
            both = [str(ipc), f"{p['pull']:.2f}", p["row"].name]
            for measure, digits in (("last", 1), ("detour", 2), ("diversity", 3)):
                other = matched(by_method[OTHER], p["pull"], measure)
                both += [shown(values(p["cells"], measure), digits), shown([] if other is None else [other], digits)]
            pairs.append(both)
    lost = diverged(args, rows(args), args.ipc)
    if not lines:
        return lost.strip()
    head = ["ipc", "set", "pull", "landing", "way", "diversity", "last top-1, %", "best top-1, %", OVER]  # fmt: skip
    text = markdown(head, lines)
    if pairs:
        heads = ["ipc", "pull", "set", *(f"{m}, {w}" for m in ("last top-1", "way", "diversity") for w in (OWN, OTHER))]
        text += f"\n\nAt the same pull ({OTHER} between its cells; – where none of its strengths pulls so):\n\n"
        text += markdown(heads, pairs)
    drawn = {ipc: [p for points in curves(args, ipc).values() for p in points] for ipc in args.ipc}
    tables = [compared(ipc, [(p["row"].name, p["cells"]) for p in points]) for ipc, points in drawn.items()]
    return "\n\n".join(filter(None, (text, *tables))) + lost


def files(args: argparse.Namespace) -> list[Path]:
    """The cells that the tables are of."""
    return grids.files(args, rows(args), args.ipc)


def plot(args: argparse.Namespace, path: Path) -> None:
    """A row of panels an IPC: each measure over the pull, a line a method, the strength at each point. What landed far
    beyond the unguided samples is in the table alone."""
    drawn = {ipc: c for ipc in args.ipc if (c := curves(args, ipc))}
    if not drawn:
        return
    whole, axes = figure.panels(len(drawn), len(MEASURES), 3.5, 2.9)
    for line, (ipc, by_method) in zip(axes, drawn.items(), strict=True):
        for place_, (measure, title) in zip(line, MEASURES.items(), strict=True):
            words = []
            for method, points in by_method.items():
                colour, side = (figure.COLOURS[0], 8) if method == OWN else (figure.COLOURS[1], -8)
                known = [(p, v) for p in points if p["pull"] > FARTHEST and (v := values(p["cells"], measure))]
                x, y = [p["pull"] for p, _ in known], [statistics.mean(v) for _, v in known]
                error = [statistics.stdev(v) if len(v) > 1 else 0.0 for _, v in known]
                place_.errorbar(x, y, yerr=error, color=colour, marker="o", markersize=4, linewidth=1.5, capsize=2)
                for (p, _), a, b in zip(known, x, y, strict=True):
                    strength = f"{dict(p['row'].numbers)['strength']:g}"
                    figure.label(place_, strength, a, b, colour, -4, side)
                words += [(method, x[-1], y[-1], colour)] if x else []
            if measure == "detour":
                place_.set_yscale("log")
            place_.margins(x=0.2, y=0.15)
            figure.labels(place_, words)
            place_.set_xlabel("pull")
            place_.set_title(f"ipc {ipc}: {title}", fontsize=10, loc="left")
    figure.save(whole, path)


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    p = parser(__doc__, "stability", "stability-CONFIG")
    two_generators(p, "mgd3")
    p.add_argument("--pgfm", nargs="*", type=float, default=[0, 0.15, 0.3, 0.6, 1], help="path.w_max")
    p.add_argument("--mgd3", nargs="*", type=float, default=[0, 0.02, 0.05, 0.1, 0.15], help="guidance.scale")
    p.add_argument("--ipc", nargs="+", type=int, default=[1, 10])
    return with_generators(p, argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = arguments(argv)
    return carry(args, rows(args), lambda wanted: compute(args, grid(args, wanted, args.ipc), walked), summary, plot)


if __name__ == "__main__":
    sys.exit(entry.program(main))
