"""What the grids of results share: rows, cells that stay on disk, the command line, and how cells become a table.

A cell is one run of the ordinary pipeline for one row (a name and its overrides), IPC, protocol and generation seed,
with its stage outputs in a folder that all cells share (fits.py computes it). A row whose samples run off to infinity
has a cell that says so: that is a result, too.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from raydistill.errors import BadInput, RaydistillError

HERE = Path(__file__).resolve().parent
METRICS = "metrics.names=[mode_coverage,diversity]"  # what grids of generated sets show
DIVERGED = "diverged"


@dataclass(frozen=True)
class Row:
    """A line of the table: a name and the overrides that make it. `numbers` are what the grid knows of it, `seeds` its
    generation seeds where they are not those of the grid. The row FULL trains on all images and samples nothing."""

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
        path = self.path(out)
        return json.loads(path.read_text()) if path.exists() else None


def parser(about: str | None, name: str, folder: str) -> argparse.ArgumentParser:
    """The arguments that every grid has; `folder` is where cells go by default, CONFIG being the configuration."""
    p = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--config", default="nette128", help="preset or YAML file")
    p.add_argument("--seeds", nargs="+", type=int, default=[0], help="generation seeds")
    p.add_argument("--training-seeds", type=int, default=1, help="trainings a set")
    p.add_argument("--only", nargs="+", metavar="ROW", help="compute only these rows (names as in the table)")
    p.add_argument("--work", type=Path, default=Path("runs") / name, help="where runs go")
    p.add_argument("--artifacts", type=Path, help="stage outputs that runs share; default WORK/artifacts")
    p.add_argument("--out", type=Path, help=f"where cells, table and plot go; default benchmarks/results/{folder}")
    p.add_argument("--print", action="store_true", help="table and plot of the finished cells, nothing is computed")
    p.add_argument("overrides", nargs="*", help="KEY=VALUE for every cell, after --")
    p.set_defaults(folder=folder)
    return p


def parsed(p: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    args = p.parse_args(argv)
    args.work = args.work.resolve()
    args.artifacts = (args.artifacts or args.work / "artifacts").resolve()
    args.out = args.out or HERE / args.folder.replace("CONFIG", Path(args.config).stem)
    return args


def carry(
    args: argparse.Namespace,
    rows: Sequence[Row],
    work: Callable[[list[Row]], None],
    summary: Callable[[argparse.Namespace], str],
    plot: Callable[[argparse.Namespace, Path], None] | None = None,
) -> int:
    """Does the work on the rows that are asked for, unless only printing, and prints the summary; where there is a
    plot, both are kept beside the cells. Returns the exit code."""
    try:
        wanted = chosen(args, rows)
        if not args.print:
            work(wanted)
    except RaydistillError as e:
        print(f"error: {e}", file=sys.stderr)
        return e.exit_code
    text = summary(args)
    if text and plot:
        (args.out / "table.md").write_text(text + "\n")
        plot(args, args.out / "plot.svg")
    print(text)
    return 0


def chosen(args: argparse.Namespace, rows: Sequence[Row]) -> list[Row]:
    """The rows of --only, or all. Raises BadInput for a name that is none."""
    names = [r.name for r in rows]
    for name in args.only or ():
        if name not in names:
            raise BadInput(f"--only: {name!r} is no row; rows are {', '.join(repr(n) for n in names)}")
    return [r for r in rows if not args.only or r.name in args.only]


def grid(
    args: argparse.Namespace, rows: Sequence[Row], ipcs: Sequence[int], protocols: Sequence[str] = ("",)
) -> list[Cell]:
    """All cells, in the order in which they are computed: every row of a seed before the next seed."""
    seeds = dict.fromkeys(s for r in rows for s in r.seeds or args.seeds)
    every = product(ipcs, protocols, seeds, rows)
    return [Cell(r, ipc, seed, protocol) for ipc, protocol, seed, r in every if seed in (r.seeds or args.seeds)]


def mean(values: Sequence[float] | np.ndarray) -> float | None:
    return round(float(np.mean(values)), 6) if len(values) else None


def accuracies(cells: Sequence[dict[str, Any]], key: str, student: str | None = None) -> list[float]:
    """In %: one a generation seed, the mean over its trainings; one a training where there is one seed."""
    values = [[100 * r[key] for r in c["rows"] if student is None or r["student"] == student] for c in cells]
    return values[0] if len(cells) == 1 else [statistics.mean(v) for v in values]


def metric(cells: Sequence[dict[str, Any]], name: str) -> list[float]:
    """A metric of each cell, whatever space it is in."""
    return [v for c in cells for k, v in c["metrics"].items() if k.split("/")[0] == name]


def shown(values: Sequence[float], digits: int = 2) -> str:
    """Mean over cells; a dash where there is none."""
    return f"{np.mean(values):.{digits}f}" if len(values) else "–"


def spread(values: Sequence[float]) -> str:
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values) if len(values) > 1 else 0:.1f}"


def accuracy(cells: Sequence[dict[str, Any]], key: str) -> str:
    values = accuracies(cells, key)
    return spread(values) if len(values) > 1 else shown(values, 1)


def write(path: Path, made: dict[str, Any]) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".tmp").write_text(json.dumps(made, indent=1, sort_keys=True) + "\n")
    path.with_suffix(".tmp").rename(path)


def found(
    args: argparse.Namespace, rows: Iterable[Row], ipc: int, protocol: str = ""
) -> Iterator[tuple[Row, list[dict[str, Any]]]]:
    """The rows that have cells at an IPC, with those that did not diverge."""
    for row in rows:
        cells = [c for cell in grid(args, [row], [ipc], [protocol]) if (c := cell.read(args.out)) is not None]
        if cells := [c for c in cells if DIVERGED not in c]:
            yield row, cells


def diverged(args: argparse.Namespace, rows: Sequence[Row], ipcs: Sequence[int], protocol: str = "") -> str:
    """A line below a table with the cells that have no numbers, if there are any."""
    lost = [c for c in grid(args, rows, ipcs, [protocol]) if DIVERGED in (c.read(args.out) or {})]
    named = [f"{c.row.name} (ipc {c.ipc}, seed {c.seed})" for c in lost]
    return f"\n\nThe network's predictions became infinite: {', '.join(named)}." if named else ""


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(["| " + " | ".join(r) + " |" for r in (head, ["---"] * len(head), *lines)])
