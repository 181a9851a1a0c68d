"""What the grids of results share: the command line, how their cells (raydistill/tune) become a table, and a batch."""

from __future__ import annotations

import argparse
import datetime
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import counts
import numpy as np
import torch
from intervals import compared_by

from raydistill.errors import BadInput, RaydistillError
from raydistill.methods.resolve import Variant
from raydistill.report import wording
from raydistill.report.text import deviation
from raydistill.results import differences
from raydistill.results.pairing import TrainingOutcome
from raydistill.stages.syntheses import sample
from raydistill.state import Results
from raydistill.store.artifact import Record
from raydistill.store.rundir import RunDir
from raydistill.tune import cells
from raydistill.tune.cells import DIVERGED, Cell, Row
from raydistill.tune.outcomes import distinct, outcomes
from raydistill.tune.study import Study

HERE = Path(__file__).resolve().parent
METRICS = "metrics.names=[mode_coverage,diversity]"  # what grids of generated sets show
OVER = "generation x training seeds"


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


def two_generators(p: argparse.ArgumentParser, of_noise: str) -> None:
    """The arguments of a grid that compares methods of a flow with those of a noise model, `of_noise`."""
    p.add_argument("--flow", type=Path, help="generator directory of a flow, for pgfm")
    p.add_argument("--noise", type=Path, help=f"generator directory of a noise model, for {of_noise}")


def with_generators(p: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Parsed arguments of such a grid, whose cells show METRICS."""
    args = parsed(p, argv)
    if args.flow is None and args.noise is None:
        p.error("give --flow DIR, --noise DIR or both")
    args.flow, args.noise = (g and g.resolve() for g in (args.flow, args.noise))
    args.overrides = [METRICS, *args.overrides]
    return args


def study(args: argparse.Namespace) -> Study:
    return Study(args.config, args.work, args.artifacts, args.out, tuple(args.overrides), args.training_seeds)


def compute(
    args: argparse.Namespace, requested: Sequence[Cell], more: Callable[[Results], dict[str, Any]] = lambda done: {}
) -> None:
    """Brings cells to disk, a line each; each keeps when and by which commit it was made."""
    for cell, kept in study(args).compute(requested, lambda done: more(done) | {"made": stamp()}):
        print(f"CELL {cell}: {line(kept)}", flush=True)


def stamp() -> dict[str, str]:
    """Today and the commit that is checked out; no commit where there is no repository."""
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True)
    return {"date": datetime.date.today().isoformat(), "commit": done.stdout.strip() or "unknown"}


def line(kept: dict[str, Any]) -> str:
    """A cell in a few words."""
    if DIVERGED in kept:
        return DIVERGED
    scores = [f"{accuracy([kept], k)} % {k}" for k in ("last", "best")]
    coverage = shown(metric([kept], "mode_coverage_ipc_nearest"))
    landing = shown([kept["landing"]] if kept["landing"] is not None else [], 3)
    return f"{kept['calls']:g} calls, {', '.join(scores)}, coverage {coverage}, landing {landing}"


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
    return cells.grid(rows, args.seeds, ipcs, protocols)


def files(
    args: argparse.Namespace, rows: Sequence[Row], ipcs: Sequence[int], protocols: Sequence[str] = ("",)
) -> list[Path]:
    """Those of the grid's cells that are there, in its order."""
    return [path for cell in grid(args, rows, ipcs, protocols) if (path := cell.path(args.out)).exists()]


def mean(values: Sequence[float] | np.ndarray) -> float | None:
    return round(float(np.mean(values)), 6) if len(values) else None


def accuracies(cells: Sequence[dict[str, Any]], key: str, student: str | None = None) -> list[float]:
    """In %: one a generation seed, the mean over its trainings; one a training where there is one seed.

    Seeds that changed nothing are one: k-means at IPC 1 is a single training, however often it is counted.
    """
    cells = distinct(cells)
    values = [[100 * r[key] for r in c["rows"] if student is None or r["student"] == student] for c in cells]
    return values[0] if len(cells) == 1 else [statistics.mean(v) for v in values]


def metric(cells: Sequence[dict[str, Any]], name: str) -> list[float]:
    """A metric of each cell, whatever space it is in."""
    return [v for c in cells for k, v in c["metrics"].items() if k.split("/")[0] == name]


def shown(values: Sequence[float], digits: int = 2) -> str:
    """Mean over cells; a dash where there is none."""
    return f"{np.mean(values):.{digits}f}" if len(values) else "–"


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation; a single value has none."""
    return f"{statistics.mean(values):.1f}" + (f" ± {deviation(statistics.stdev(values))}" if len(values) > 1 else "")


def accuracy(cells: Sequence[dict[str, Any]], key: str) -> str:
    return spread(accuracies(cells, key))


def over(kept: Sequence[dict[str, Any]]) -> str:
    """How many generation and training seeds (the column OVER)."""
    return f"{len(kept)} x {len(kept[0]['rows'])}"


def with_cells(
    args: argparse.Namespace, rows: Iterable[Row], ipc: int, protocol: str = ""
) -> Iterator[tuple[Row, list[dict[str, Any]]]]:
    """The rows that have cells at an IPC, with those that did not diverge."""
    for row in rows:
        if kept := cells.finished(grid(args, [row], [ipc], [protocol]), args.out):
            yield row, kept


def diverged(args: argparse.Namespace, rows: Sequence[Row], ipcs: Sequence[int], protocol: str = "") -> str:
    """A line below a table with the cells that have no numbers, if there are any."""
    lost = cells.diverged(grid(args, rows, ipcs, [protocol]), args.out)
    named = [f"{c.row.name} (ipc {c.ipc}, seed {c.seed})" for c in lost]
    return f"\n\nThe network's predictions became infinite: {', '.join(named)}." if named else ""


def compared(ipc: int, rows: Sequence[tuple[str, list[dict[str, Any]]]]) -> str:
    """Every pair of the rows of a table, each given by its cells: which can be told apart, the larger one first; of
    uneven test classes over classes and over images."""
    every = [o for name, kept in rows for o in outcomes(name, kept)]
    pairs = differences.table([*every, *over_students(every)], compared_by(every))
    head = ["sets", "difference", "95 %, seeds", "and images", "P(A > B)", "p, Holm", "pairs", "for one point", "says"]
    lines = [
        [
            f"{r.a} − {r.b}{f' ({r.note})' if r.note else ''}",
            *(r.mean, r.over_seeds, r.over_images, r.ahead, r.holm, r.pairs, r.needed, r.words),
        ]
        for r in wording.rows(pairs)
    ]
    parts = [f"Differences at ipc {ipc}, in points:", markdown(head, lines), counts.lines(pairs)]
    return "\n\n".join(filter(None, parts)) if lines else ""


def over_students(every: Sequence[TrainingOutcome]) -> list[TrainingOutcome]:
    """The mean over students of each set and seeds, as if it were one more student; none where there is one."""
    if len({o.student for o in every}) < 2:
        return []
    of_seeds: dict[tuple[object, ...], list[TrainingOutcome]] = {}
    for o in every:
        of_seeds.setdefault((o.set, o.digest, o.generation, o.training), []).append(o)
    return [
        replace(some[0], student="mean", answers=_shares(some), **{
            key: statistics.mean(getattr(o, key) for o in some) for key in ("top1", "balanced")
        })
        for some in of_seeds.values()
    ]  # fmt: skip


def _shares(some: Sequence[TrainingOutcome]) -> tuple[np.ndarray, ...] | None:
    """Of each test image the share of these students that are right; None where that is not known of all."""
    known = [o.answers for o in some if o.answers is not None]
    if len(known) < len(some):
        return None
    return tuple(np.mean(answers, axis=0) for answers in zip(*known, strict=True))


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(["| " + " | ".join(r) + " |" for r in (head, ["---"] * len(head), *lines)])


@contextmanager
def first_batch(done: Results, v: Variant) -> Iterator[Callable[[], Record]]:
    """Samples the first batch of the plan of a run's own method, in this process by the stage's own work, as often as
    it is called; nothing of it is kept."""
    p = done.prepared
    assert done.classes is not None
    torch.set_num_threads(v.config.sample.threads)
    with tempfile.TemporaryDirectory() as folder:
        slots = done.plans[v.config.method]
        stage = sample.stage(v, RunDir(folder), slots, done.classes, p.splits.train, p.vae, p.generator)
        finish, batch = stage.work.open(), stage.items(stage.keys[0])
        yield lambda: finish(stage.work.load(batch))
