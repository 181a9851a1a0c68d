"""The same sets trained on twice, in two arithmetics: one grid against another, cell by cell, on the same test images.

    python benchmarks/results/same_sets.py --first benchmarks/results/nette128 --second benchmarks/results/nette128-3925

Takes the rows and seeds that both grids have under a protocol at an IPC, and of each its training seeds; answers known
of the second grid are counted on the test images that the first one had, which stand first in each class.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from grids import HERE, markdown

from raydistill.evaluation.score import unpacked
from raydistill.report import wording
from raydistill.report.text import percent
from raydistill.results import statistics as st

ROOT = HERE.parents[1]


def last(row: dict[str, Any], per_class: int) -> float:
    """Top-1 of a training on the first so many test images of each class."""
    answers = unpacked(row["right"], row["tested"])
    return float(np.mean([right[:per_class].mean() for right in answers]))


def in_both(args: argparse.Namespace) -> list[tuple[Path, Path]]:
    """The cells of either grid that the other has, too."""
    prefix, second = f"ipc{args.ipc}-{args.protocol}", ROOT / args.second
    firsts = sorted((ROOT / args.first).glob(f"{prefix}-*-seed*.json"))
    return [(path, second / path.name) for path in firsts if (second / path.name).exists()]


def files(args: argparse.Namespace) -> list[Path]:
    """The cells that the table is of: those with trainings by the same seed."""
    return [path for pair in in_both(args) if trained(pair, args.per_class) for path in pair]


def trained(pair: tuple[Path, Path], per_class: int) -> list[tuple[str, int, float, float]]:
    """Row, seed, and last top-1 in either grid, of every training that both have."""
    one, two = (json.loads(path.read_text()) for path in pair)
    of_second = {r["training_seed"]: r for r in two["rows"] if r.get("right")}
    name = two.get("row", two["method"])
    return [
        (name, two["seed"], r["last"], last(of_second[r["training_seed"]], per_class))
        for r in one["rows"]
        if r["training_seed"] in of_second
    ]


def summary(args: argparse.Namespace) -> str:
    trainings = [t for pair in in_both(args) for t in trained(pair, args.per_class)]
    trainings.sort(key=lambda t: t[2])
    lines = [
        [name, str(seed), percent(one), percent(two), wording.points(two - one)] for name, seed, one, two in trainings
    ]
    differences = [two - one for _, _, one, two in trainings]
    interval = st.bootstrap([np.array(differences)])
    bounds = wording.interval(interval.low, interval.high) if interval else "–"
    mean = f"{wording.points(statistics.mean(differences))} points {bounds} over {len(differences)} trainings"
    head = ["set", "seed", f"{args.names[0]}, %", f"{args.names[1]}, %", "difference"]
    return f"{markdown(head, lines)}\n\n{args.names[1]} − {args.names[0]}: {mean}."


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--first", required=True, help="folder of cells")
    p.add_argument("--second", required=True, help="folder of cells that know which test images were right")
    p.add_argument("--names", nargs=2, default=["float32", "bfloat16"], help="of the two in the table")
    p.add_argument("--per-class", type=int, default=100, help="test images a class of the first grid")
    p.add_argument("--protocol", default="hard")
    p.add_argument("--ipc", type=int, default=10)
    return p.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    print(summary(arguments(argv)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
