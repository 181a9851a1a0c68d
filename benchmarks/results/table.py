"""Result tables: methods x generation seeds at each IPC and protocol, every cell committed to disk as it is finished.

    python benchmarks/results/table.py --config nette128 --methods random kmeans dit mgd3 --protocols hard fkd \
        --ipc 1 10 --seeds 0 1 2 --training-seeds 2 --full 3 --teacher SQUEEZENET.safetensors \
        --teacher-architecture squeezenet1_0 --teacher-classes imagenet1k --work runs/table -- \
        source.path=DIR vae.path=DIR generator.path=DIR

Run again after an interruption, it computes only the cells that are missing; the sets of a protocol, IPC and seed are
trained on together. A cell holds the accuracies of every training; a table gives mean and standard deviation over
generation seeds, each the mean over its training seeds; below it every pair of rows has its difference with an interval
from paired seeds (docs/statistics.md). The full-data rows, and methods without dice, have no
generation seed: they are over training seeds. Hard and soft labels are tables of their own; a soft one says how good
the teacher is itself. Storage is what a set takes: encoded images, and soft labels beside them. With several students
(evaluate.students=[convnet,vgg11]) each has a column, and so have their mean and the worst of them.

`--variants FILE` takes rows from a YAML file instead of `--methods`: a name and its overrides, `method=` among them
(benchmarks/results/ablation.yaml is ManifoldGD's). `--metrics KEY ...` adds columns of result.json's metrics.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from grids import accuracies, carry, compared, compute, diverged, grid, markdown, parsed, parser, spread, with_cells

from raydistill import registry
from raydistill.report.data import FULL
from raydistill.report.text import plural
from raydistill.tune.cells import Row
from raydistill.tune.outcomes import distinct

NO_DICE = ("herding", "kcenter")  # a generation seed changes nothing in their sets, so they get training seeds


def rows(args: argparse.Namespace) -> list[Row]:
    rows = []
    for name in args.methods:
        random = name in args.variants or name not in NO_DICE
        trainings = args.training_seeds * (1 if random else len(args.seeds))
        overrides = [*args.variants.get(name, [f"method={name}"]), *flow(args, name), f"evaluate.seeds={trainings}"]
        rows.append(Row(name, tuple(overrides), seeds=() if random else (0,)))
    return rows + ([Row(FULL, ("method=random", f"evaluate.seeds={args.full}"), seeds=(0,))] if args.full else [])


def flow(args: argparse.Namespace, method: str) -> list[str]:
    """The generator of a method that samples as flows do, if another one is given for those."""
    if args.flow is None or method not in registry.names("method"):
        return []
    spaces = registry.get("sampler", registry.get("method", method).sampler).spaces
    return [f"generator.path={args.flow}"] if "velocity" in spaces else []


def teacher(args: argparse.Namespace) -> list[str]:
    given = {"path": args.teacher, "architecture": args.teacher_architecture, "classes": args.teacher_classes}
    return [f"teacher.{key}={value}" for key, value in given.items() if value]


def summary(args: argparse.Namespace) -> str:
    """A Markdown table a protocol, of the cells that are there."""
    tables = []
    for protocol in args.protocols:
        there = [(ipc, row, cells) for ipc in args.ipc for row, cells in with_cells(args, rows(args), ipc, protocol)]
        lines = heading(there[0][2][0], args.metrics) if there else []
        lines += [line(ipc, row.name, cells, args.metrics) for ipc, row, cells in there]
        tables.append(("\n".join(lines) + diverged(args, rows(args), args.ipc, protocol)).strip())
        tables += [compared(i, [(row.name, cells) for ipc, row, cells in there if ipc == i]) for i in args.ipc]
    return "\n\n".join(filter(None, tables))


def students(cell: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(r["student"] for r in cell["rows"]))


def heading(first: dict[str, Any], metrics: Sequence[str] = ()) -> list[str]:
    """Name of the protocol, the teacher if there is one, and the head of the table."""
    by, names = first["teacher"], students(first)
    labels = f"soft labels by {by['architecture']} ({100 * by['accuracy']:.1f} % itself)" if by else "hard labels"
    about = f"Protocol {first['protocol_name']}; {labels}; "
    if len(names) == 1:
        about, names = f"{about}student {names[0]}.", ["last top-1, %", "best top-1, %"]
    else:
        about, names = f"{about}last top-1 of each student, %.", [*names, "mean", "worst"]
    head = ["ipc", "set", "images", "storage, kB", *names, "over", *metrics]
    return [about, "", *markdown(head, []).splitlines()]


def line(ipc: int, method: str, cells: list[dict[str, Any]], metrics: Sequence[str] = ()) -> str:
    """One student: last and best top-1. Several: the last of each, their mean, and the worst of each seed."""
    names = students(cells[0])
    once = distinct(cells)
    seeds = len(once[0]["rows"]) // len(names)
    over = f"{len(once)} generation x {seeds} training seeds" if len(once) > 1 else plural(seeds, "training seed")
    stored = statistics.mean(sum(c["bytes"].values()) for c in cells) / 1000
    scores = [accuracies(cells, key) for key in ("last", "best")]
    if len(names) > 1:
        each = [accuracies(cells, "last", s) for s in names]
        scores = [*each, *([pick(one) for one in zip(*each, strict=True)] for pick in (statistics.mean, min))]
    return "| " + " | ".join([
        str(ipc), method, str(cells[0]["images"]), f"{stored:,.0f}", *map(spread, scores), over,
        *(of_metric(cells, m) for m in metrics),
    ]) + " |"  # fmt: skip


def of_metric(cells: list[dict[str, Any]], name: str) -> str:
    """Mean over generation seeds; a dash where it was not computed."""
    values = [c["metrics"][name] for c in cells if name in c.get("metrics", {})]
    return f"{statistics.mean(values):.3g}" if values else "–"


def main(argv: Sequence[str] | None = None) -> int:
    p = parser(__doc__, "table", "CONFIG")
    p.set_defaults(seeds=[0, 1, 2], training_seeds=2)
    p.add_argument("--methods", nargs="+", default=["random", "kmeans", "dit", "mgd3", "mgd3_ddim"])
    p.add_argument("--variants", type=Path, help="YAML: rows and their overrides, instead of --methods")
    p.add_argument("--metrics", nargs="*", default=[], help="columns: keys of result.json, such as fid/latent")
    p.add_argument("--protocols", nargs="+", default=["hard"], help="hard, rded, fkd: a table each")
    p.add_argument("--ipc", nargs="+", type=int, default=[10])
    p.add_argument("--full", type=int, default=3, help="trainings on the whole training split; 0 = none")
    p.add_argument("--flow", help="generator.path of methods that sample as flows do (pgfm); default: the others'")
    p.add_argument("--teacher", help="teacher.path, for soft labels")
    p.add_argument("--teacher-architecture", help="teacher.architecture, where the path is a file")
    p.add_argument("--teacher-classes", help="teacher.classes, where the path is a file")
    args = parsed(p, argv)
    args.overrides = [*teacher(args), *args.overrides]
    args.variants = yaml.safe_load(args.variants.read_text()) if args.variants else {}
    args.methods = list(args.variants) or args.methods

    def work(wanted: list[Row]) -> None:
        compute(args, grid(args, wanted, args.ipc, args.protocols))

    return carry(args, rows(args), work, summary)


if __name__ == "__main__":
    sys.exit(main())
