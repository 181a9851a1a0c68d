"""What the grids of results share: rows, and cells that stay on disk; a finished one is never computed again.

A cell is one run of the ordinary pipeline for one row (a name and its overrides), IPC and generation seed, with its
stage outputs in a folder that all cells share. The trainings of the cells of an IPC and a seed go to one fit. A row
whose samples run off to infinity has a cell that says so: that is a result, too.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from table import LEFT_OUT, OTHER, portable, spread

from raydistill.config import Config, load
from raydistill.errors import BadInput, StageFailed
from raydistill.stages import evaluate, pipeline
from raydistill.stages.imagesets import SetRef
from raydistill.stages.pipeline import Results
from raydistill.stages.preflight import Prepared, prepare
from raydistill.stages.results import metrics
from raydistill.stages.trainer import score

HERE = Path(__file__).resolve().parent
METRICS = ("mode_coverage", "diversity")
DIVERGED = "diverged"


@dataclass(frozen=True)
class Row:
    """A line of the table: a name and the overrides that make it. `numbers` are what the grid knows of it."""

    name: str
    overrides: tuple[str, ...]
    numbers: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Cell:
    row: Row
    ipc: int
    seed: int

    def path(self, out: Path) -> Path:
        return out / f"ipc{self.ipc}-{re.sub(r'[^A-Za-z0-9.]+', '_', self.row.name)}-seed{self.seed}.json"

    def read(self, out: Path) -> dict[str, Any] | None:
        path = self.path(out)
        return json.loads(path.read_text()) if path.exists() else None


def parser(about: str | None, out: str) -> argparse.ArgumentParser:
    """The arguments that every grid has; `out` is where its cells go by default."""
    p = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--config", default="nette128", help="preset or YAML file")
    p.add_argument("--seeds", nargs="+", type=int, default=[0], help="generation seeds")
    p.add_argument("--training-seeds", type=int, default=1, help="trainings a set")
    p.add_argument("--only", nargs="+", metavar="ROW", help="compute only these rows (names as in the table)")
    p.add_argument("--work", type=Path, default=Path("runs") / out, help="where runs go")
    p.add_argument("--artifacts", type=Path, help="stage outputs that runs share; default WORK/artifacts")
    p.add_argument("--out", type=Path, help=f"where cells, table and plot go; default benchmarks/results/{out}-CONFIG")
    p.add_argument("--print", action="store_true", help="table and plot of the finished cells, nothing is computed")
    p.add_argument("overrides", nargs="*", help="KEY=VALUE for every cell, after --")
    p.set_defaults(name=out)
    return p


def parsed(p: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    args = p.parse_args(argv)
    args.work = args.work.resolve()
    args.artifacts = (args.artifacts or args.work / "artifacts").resolve()
    args.out = args.out or HERE / f"{args.name}-{Path(args.config).stem}"
    return args


def chosen(args: argparse.Namespace, rows: Sequence[Row]) -> list[Row]:
    """The rows of --only, or all. Raises BadInput for a name that is none."""
    names = [r.name for r in rows]
    for name in args.only or ():
        if name not in names:
            raise BadInput(f"--only: {name!r} is no row; rows are {', '.join(repr(n) for n in names)}")
    return [r for r in rows if not args.only or r.name in args.only]


def configured(args: argparse.Namespace, cell: Cell, run_dir: Path, artifacts: Path | None = None) -> Config:
    return load(
        args.config,
        [
            f"metrics.names=[{','.join(METRICS)}]",
            f"evaluate.seeds={args.training_seeds}",
            *args.overrides,
            *cell.row.overrides,
            f"ipc={cell.ipc}",
            f"seed={cell.seed}",
            "evaluate.baselines=[]",
            "evaluate.full=false",
            f"artifact_dir={artifacts or args.artifacts}",
            f"run_dir={run_dir}",
        ],
    )


def compute(
    args: argparse.Namespace, cells: Iterable[Cell], more: Callable[[Results], dict[str, Any]] = lambda done: {}
) -> None:
    """Brings the cells to disk, in their order; `more` adds numbers of a finished run."""
    for _, group in groupby(cells, lambda c: (c.ipc, c.seed)):
        left = [c for c in group if not c.path(args.out).exists()]
        ready = [prepare(configured(args, c, args.work / c.path(args.out).stem)) for c in left]
        for cell, prepared in together(args, left, ready):
            done = pipeline.run(prepared, "evaluate")
            made = {"row": cell.row.name, "ipc": cell.ipc, "seed": cell.seed, **dict(cell.row.numbers)}
            made |= numbers(done) | more(done)
            write(cell.path(args.out), made)
            say(cell, made)


def together(
    args: argparse.Namespace, cells: Sequence[Cell], ready: Sequence[Prepared]
) -> list[tuple[Cell, Prepared]]:
    """Samples every cell, then trains on all their sets in one fit, whose trainings their runs find by fingerprint.

    Returns those that could be sampled; of the others the cell is written here.
    """
    refs, good = [], []
    for cell, prepared in zip(cells, ready, strict=True):
        try:
            made = pipeline.run(prepared, "sample").syntheses[prepared.config.method]
        except StageFailed as e:
            if "non-finite" not in str(e):
                raise
            write(cell.path(args.out), {"row": cell.row.name, "ipc": cell.ipc, "seed": cell.seed, DIVERGED: str(e)})
            print(f"CELL ipc {cell.ipc}, {cell.row.name}, seed {cell.seed}: {DIVERGED}", flush=True)
            continue
        refs.append(SetRef(cell.row.name, made.manifest.digest, made.manifest.rows, made.artifact, made.manifest))
        good.append((cell, prepared))
    if len(refs) > 1:
        p = good[0][1]
        evaluate.evaluate(p.config, p.run, refs, p.splits.train, p.splits.test)
    return good


def numbers(done: Results) -> dict[str, Any]:
    """What a cell keeps of a run: calls, accuracies, metrics, where samples ended and how long their way was."""
    p = done.prepared
    mine = [t for t in done.trainings if t.set.name == p.config.method]
    rows = [
        {"student": t.student, "training_seed": t.seed, **{k: v for k, v in s.tree().items() if k not in LEFT_OUT}}
        for t in mine
        if (s := score(t)) is not None
    ]
    return {
        "method": p.config.method,
        "images": mine[0].set.images,
        "rows": rows,
        "metrics": {k: v for k, v in metrics(done).items() if not k.startswith(OTHER)},
        **ended(done),
        "config": portable(p.config.tree()),
        "machine": machine(p.config),
    }


def ended(done: Results) -> dict[str, Any]:
    """`calls` of the network an image, as the sampler counted them; a doubled batch for classifier-free guidance is
    one. `landing` and, of flows, `detour`: means over slots, null where there is none."""
    p = done.prepared
    made = done.syntheses[p.config.method]
    table = pa.concat_tables(
        [made.artifact.read_table(r, columns=["nfe", "landing", "trace"]) for r in made.manifest.records]
    )
    ways = [e["value"] for t in table["trace"].to_pylist() for e in t if e["name"] == "detour" and e["step"] == 0]
    return {
        "calls": float(table["nfe"].to_numpy().mean()) / (1 if p.config.sampler.cfg_scale == 1 else 2),
        "landing": mean(table["landing"].drop_null().to_numpy()),
        "detour": mean(ways),
    }


def mean(values: Sequence[float] | np.ndarray) -> float | None:
    return round(float(np.mean(values)), 6) if len(values) else None


def accuracies(cells: Sequence[dict[str, Any]], key: str) -> list[float]:
    """In %: one a generation seed, the mean over its trainings; one a training where there is one seed."""
    values = [[100 * r[key] for r in c["rows"]] for c in cells]
    return values[0] if len(cells) == 1 else [float(np.mean(v)) for v in values]


def metric(cells: Sequence[dict[str, Any]], name: str) -> list[float]:
    """A metric of each cell, whatever space it is in."""
    return [v for c in cells for k, v in c["metrics"].items() if k.split("/")[0] == name]


def shown(values: Sequence[float], digits: int = 2) -> str:
    """Mean over cells; a dash where there is none."""
    return f"{np.mean(values):.{digits}f}" if len(values) else "–"


def accuracy(cells: Sequence[dict[str, Any]], key: str) -> str:
    values = accuracies(cells, key)
    return spread(values) if len(values) > 1 else shown(values, 1)


def write(path: Path, made: dict[str, Any]) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".tmp").write_text(json.dumps(made, indent=1, sort_keys=True) + "\n")
    path.with_suffix(".tmp").rename(path)


def say(cell: Cell, made: dict[str, Any]) -> None:
    found = [f"{accuracy([made], k)} % {k}" for k in ("last", "best")]
    coverage = shown(metric([made], "mode_coverage_ipc_nearest"))
    print(
        f"CELL ipc {cell.ipc}, {cell.row.name}, seed {cell.seed}: {made['calls']:g} calls, {', '.join(found)}, "
        f"coverage {coverage}, landing {shown([made['landing']] if made['landing'] is not None else [], 3)}",
        flush=True,
    )


def machine(config: Config) -> str:
    return f"{os.cpu_count()} cores, {platform.machine()}, {config.evaluate.num_gpus:g} GPUs a worker"


def found(args: argparse.Namespace, rows: Iterable[Row], ipc: int) -> Iterator[tuple[Row, list[dict[str, Any]]]]:
    """The rows that have cells at an IPC, with those that did not diverge."""
    for row in rows:
        cells = [c for s in args.seeds if (c := Cell(row, ipc, s).read(args.out)) is not None and DIVERGED not in c]
        if cells:
            yield row, cells


def diverged(args: argparse.Namespace, rows: Iterable[Row], ipcs: Sequence[int]) -> str:
    """A line below a table with the cells that have no numbers, if there are any."""
    named = [
        f"{cell.row.name} (ipc {ipc}, seed {cell.seed})"
        for ipc in ipcs
        for row in rows
        for cell in (Cell(row, ipc, s) for s in args.seeds)
        if DIVERGED in (cell.read(args.out) or {})
    ]
    return f"\n\nThe network's predictions became infinite: {', '.join(named)}." if named else ""


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(["| " + " | ".join(r) + " |" for r in (head, ["---"] * len(head), *lines)])
