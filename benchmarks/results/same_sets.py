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
from raydistill.results import differences
from raydistill.results import statistics as st
from raydistill.results.pairing import TrainingOutcome
from raydistill.tune.outcomes import outcomes

ROOT = HERE.parents[1]


def last(row: dict[str, Any], per_class: int) -> float:
    """Top-1 of a training on the first so many test images of each class."""
    answers = unpacked(row["right"], row["tested"])
    return float(np.concatenate([right[:per_class] for right in answers]).mean())


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
    pairs = in_both(args)
    trainings = [t for pair in pairs for t in trained(pair, args.per_class)]
    trainings.sort(key=lambda t: t[2])
    lines = [
        [name, str(seed), percent(one), percent(two), wording.points(two - one)] for name, seed, one, two in trainings
    ]
    changes = [two - one for _, _, one, two in trainings]
    interval = st.bootstrap([np.array(changes)])
    bounds = wording.interval(interval.low, interval.high) if interval else "–"
    mean = f"{wording.points(statistics.mean(changes))} points {bounds} over {len(changes)} trainings"
    head = ["set", "seed", f"{args.names[0]}, %", f"{args.names[1]}, %", "difference"]
    parts = [markdown(head, lines), f"{args.names[1]} − {args.names[0]}: {mean}."]
    return "\n\n".join(filter(None, [*parts, verdicts(args, pairs)]))


def verdicts(args: argparse.Namespace, pairs: Sequence[tuple[Path, Path]]) -> str:
    """Whether the engine of differences says the same of every two sets in either grid, by the seeds that both have,
    and by how much the one grid's difference is another; nothing where there is one seed."""
    there = [pair for pair in pairs if trained(pair, args.per_class)]
    sides = [[o for pair in there for o in of_cell(pair[i])] for i in (0, 1)] if there else []
    in_common = set.intersection(*({(o.set, o.training) for o in side} for side in sides)) if sides else set()
    said = []
    for side in sides:
        table = differences.table([o for o in side if (o.set, o.training) in in_common])
        said.append({(d.a, d.b): d for d in table if d.pairs > 1})
    both = sorted(set(said[0]) & set(said[1])) if said else []
    if not both:
        return ""
    alike = sum(_stands(said[0][pair]) == _stands(said[1][pair]) for pair in both)
    turned = sum(_stands(said[0][pair]) * _stands(said[1][pair]) < 0 for pair in both)
    changes = [abs(said[1][pair].mean - said[0][pair].mean) for pair in both]
    return (
        f"Of {len(both)} pairs of sets, each of {min(said[1][p].pairs for p in both)} seeds or more, {alike} have the "
        f"same verdict in both (by the interval over seeds), and {turned} the opposite one. A difference changes by "
        f"{wording.points(statistics.mean(changes))} points in the mean, by {wording.points(max(changes))} at most."
    )


def _stands(d: differences.Difference) -> int:
    """1 where the interval over seeds has the first set ahead, -1 the second, 0 where it leaves both."""
    assert d.low is not None and d.high is not None
    return (d.low > 0) - (d.high < 0)


def of_cell(path: Path) -> list[TrainingOutcome]:
    cell = json.loads(path.read_text())
    return outcomes(str(cell.get("row", cell["method"])), [cell])


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
