"""Result tables: methods x generation seeds at each IPC and protocol, every cell committed to disk as it is finished.

    python benchmarks/results/table.py --config nette128 --methods random kmeans dit mgd3 --protocols hard fkd \
        --ipc 1 10 --seeds 0 1 2 --training-seeds 2 --full 3 --teacher SQUEEZENET.safetensors \
        --teacher-architecture squeezenet1_0 --teacher-classes imagenet1k --work runs/table -- \
        source.path=DIR vae.path=DIR generator.path=DIR

Run again after an interruption, it computes only the cells that are missing; the sets of a protocol, IPC and seed are
trained on together. A cell holds the accuracies of every training; a table gives mean and standard deviation over
generation seeds, each the mean over its training seeds, the 95 % interval over seeds, the same with the error of the
test images, and the mean over classes; below it every pair of rows has its difference with an interval from paired
seeds (docs/statistics.md). A generation seed g of n trainings has the training seeds g n to g n + n - 1, the same for
all sets. The full-data rows, and methods without dice, have no generation seed: they are over training seeds. Hard and
soft labels are tables of their own; a soft one says how good the teacher is itself. Storage is what a set takes: its
images, and soft labels beside them. With several students (evaluate.students=[convnet,vgg11]) each has a column, and so
have their mean, the worst of them and, where the cells know it, their mean over classes. Where test classes differ by
more than half, differences are over classes, too. `--across` prints one table of the same sets under all protocols
instead, of such test classes by the mean over them; below it stand their differences under each, and how far a protocol
moves a set (by_protocol.py).

`--variants FILE` takes rows from a YAML file instead of `--methods`: a name and its overrides, `method=` among them
(benchmarks/results/ablation.yaml is ManifoldGD's). `--metrics KEY ...` adds columns of result.json's metrics.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import by_protocol
import grids
from grids import (
    accuracies,
    carry,
    compared,
    compute,
    diverged,
    grid,
    markdown,
    over_students,
    parsed,
    parser,
    spread,
    with_cells,
)
from intervals import accuracy, compared_by, over_classes

from raydistill import entry, registry
from raydistill.report.scores import FULL
from raydistill.report.text import plural
from raydistill.results.pairing import TrainingOutcome
from raydistill.tune.cells import TO_THE_END, Row
from raydistill.tune.outcomes import distinct, outcomes

SCORES = ["last top-1, %", "95 %, seeds", "and images", "best top-1, %", "a class, %"]
OF_STUDENTS = ["mean", "worst"]
A_CLASS = "mean a class"
NO_DICE = ("herding", "kcenter")  # a generation seed changes nothing in their sets, so they get training seeds


def rows(args: argparse.Namespace) -> list[Row]:
    rows = []
    for name in args.methods:
        random = name in args.variants or name not in NO_DICE
        trainings = args.training_seeds * (1 if random else len(args.seeds))
        overrides = args.variants.get(name, [f"method={name}"])
        overrides = [*overrides, *flow(args, overrides), f"evaluate.seeds={trainings}"]
        rows.append(Row(name, tuple(overrides), seeds=() if random else (0,)))
    full = ["method=random", f"evaluate.seeds={args.full}"]
    if args.full:
        rows.append(Row(FULL, tuple(full), seeds=(0,)))
    if args.full and args.full_epochs:
        rows.append(Row(TO_THE_END, (*full, f"evaluate.full_epochs={args.full_epochs}"), seeds=(0,)))
    return rows


def flow(args: argparse.Namespace, overrides: Sequence[str]) -> list[str]:
    """The generator of a row whose method samples as flows do, if another one is given for those."""
    method = dict(o.split("=", 1) for o in overrides)["method"]
    if args.flow is None or method not in registry.names("method"):
        return []
    spaces = registry.get("sampler", registry.get("method", method).sampler).spaces
    return [f"generator.path={args.flow}"] if "velocity" in spaces else []


def teacher(args: argparse.Namespace) -> list[str]:
    keys = {"path": args.teacher, "architecture": args.teacher_architecture, "classes": args.teacher_classes}
    return [f"teacher.{key}={value}" for key, value in keys.items() if value]


def summary(args: argparse.Namespace) -> str:
    """Markdown tables of the cells that are there: one a protocol, or --across one an IPC that has all of them."""
    every = {
        protocol: [(ipc, row, kept) for ipc in args.ipc for row, kept in with_cells(args, rows(args), ipc, protocol)]
        for protocol in args.protocols
    }
    if args.across:
        return "\n\n".join(filter(None, (across(every, ipc) for ipc in args.ipc)))
    tables = []
    for protocol, there in every.items():
        every_cell = [c for _, _, kept in there for c in kept]
        lines = heading(every_cell, args.metrics) if there else []
        lines += [line(ipc, row.name, kept, args.metrics, known(every_cell)) for ipc, row, kept in there]
        tables.append(("\n".join(lines) + diverged(args, rows(args), args.ipc, protocol)).strip())
        tables += [compared(i, [(row.name, kept) for ipc, row, kept in there if ipc == i]) for i in args.ipc]
    return "\n\n".join(filter(None, tables))


def files(args: argparse.Namespace) -> list[Path]:
    """The cells that the tables are of."""
    return grids.files(args, rows(args), args.ipc, args.protocols)


Cells = list[dict[str, Any]]


def students(cell: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(r["student"] for r in cell["rows"]))


def known(cells: Cells) -> bool:
    """Whether any of them has kept its answers, by which the mean over classes is known."""
    return any(r.get("right") is not None for c in cells for r in c["rows"])


def heading(cells: Cells, metrics: Sequence[str] = ()) -> list[str]:
    """Name of the protocol, the teacher if there is one, and the head of the table."""
    names = students(cells[0])
    about = described(cells[0])
    if len(names) == 1:
        about, names = f"{about}; student {names[0]}.", SCORES
    else:
        about, names = (
            f"{about}; last top-1 of each student, %.",
            [*names, *OF_STUDENTS, *([A_CLASS] if known(cells) else [])],
        )
    head = ["ipc", "set", "images", "storage, kB", *names, "over", *metrics]
    return [about, "", *markdown(head, []).splitlines()]


def described(cell: dict[str, Any]) -> str:
    """The protocol, and the labels with how good their teacher is."""
    by = cell["teacher"]
    labels = f"soft labels by {by['architecture']} ({100 * by['accuracy']:.1f} % itself)" if by else "hard labels"
    return f"Protocol {cell['protocol_name']}; {labels}"


def line(ipc: int, method: str, cells: Cells, metrics: Sequence[str] = (), by_class: bool = False) -> str:
    """One student: last top-1 with its intervals, best, and the mean over classes. Several: the last of each, their
    mean, the worst of each seed, and where it is known of any row the mean over students and classes."""
    names = students(cells[0])
    once = distinct(cells)
    seeds = len(once[0]["rows"]) // len(names)
    over = f"{len(once)} generation x {seeds} training seeds" if len(once) > 1 else plural(seeds, "training seed")
    stored = statistics.mean(sum(c["bytes"].values()) for c in cells) / 1000
    if len(names) == 1:
        of_set = outcomes(method, cells)
        _, seeds_only, with_images = accuracy(of_set).cells
        last, best = (spread(accuracies(cells, key)) for key in ("last", "best"))
        scores = [last, seeds_only, with_images, best, over_classes(of_set)]
    else:
        each = [accuracies(cells, "last", s) for s in names]
        of_seeds = [pick(one) for pick in (statistics.mean, min) for one in zip(*each, strict=True)]
        half = len(of_seeds) // 2
        scores = [spread(values) for values in (*each, of_seeds[:half], of_seeds[half:])]
        scores += [over_students_and_classes(outcomes(method, cells))] if by_class else []
    return "| " + " | ".join([
        str(ipc), method, str(cells[0]["images"]), f"{stored:,.0f}", *scores, over,
        *(of_metric(cells, m) for m in metrics),
    ]) + " |"  # fmt: skip


def over_students_and_classes(of_set: Sequence[TrainingOutcome]) -> str:
    """In percent; a dash where some of the answers are not known."""
    if any(o.answers is None for o in of_set):
        return "–"
    return accuracy(over_students(of_set), "balanced").cells[0]


def across(every: dict[str, list[tuple[int, Row, Cells]]], ipc: int) -> str:
    """The same sets under every protocol, a column a student of each: the last accuracy with its interval over seeds,
    by the mean over classes where test classes are uneven."""
    of_ipc = {p: {row.name: kept for i, row, kept in there if i == ipc} for p, there in every.items()}
    firsts = {protocol: next(iter(kept.values()))[0] for protocol, kept in of_ipc.items() if kept}
    if not firsts:
        return ""
    every_row = [o for kept in of_ipc.values() for name, cells in kept.items() for o in outcomes(name, cells)]
    measure = compared_by(every_row)[0]
    about = [f"* `{p}`: {described(first)}; {', '.join(students(first))}." for p, first in firsts.items()]
    columns = [
        by_protocol.Column(
            p if len(students(first)) == 1 else f"{p}, {student}", p, student, of_student(of_ipc[p], student), measure
        )
        for p, first in firsts.items()
        for student in students(first)
    ]
    what = "last accuracy a class" if measure == "balanced" else "last top-1"
    title = f"{ipc} images a class; {what}, % [95 % over seeds]."
    return "\n".join([title, "", *about, "", by_protocol.text(columns)])


def of_student(kept: Mapping[str, Cells], student: str) -> dict[str, list[TrainingOutcome]]:
    """The trainings of one student on each set that it was trained on."""
    every = {name: [o for o in outcomes(name, cells) if o.student == student] for name, cells in kept.items()}
    return {name: trainings for name, trainings in every.items() if trainings}


def of_metric(cells: list[dict[str, Any]], name: str) -> str:
    """Mean over generation seeds; a dash where it was not computed."""
    values = [c["metrics"][name] for c in cells if name in c.get("metrics", {})]
    return f"{statistics.mean(values):.3g}" if values else "–"


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    p = parser(__doc__, "table", "CONFIG")
    p.set_defaults(seeds=[0, 1, 2], training_seeds=2)
    p.add_argument("--methods", nargs="+", default=["random", "kmeans", "dit", "mgd3", "mgd3_ddim"])
    p.add_argument("--variants", type=Path, help="YAML: rows and their overrides, instead of --methods")
    p.add_argument("--metrics", nargs="*", default=[], help="columns: keys of result.json, such as fid/latent")
    known = registry.names("protocol")
    p.add_argument("--protocols", nargs="+", default=["hard"], choices=known, metavar="PROTOCOL",
                   help=f"a table each: {', '.join(known)}")  # fmt: skip
    p.add_argument("--ipc", nargs="+", type=int, default=[10])
    p.add_argument("--full", type=int, default=3, help="trainings on the whole training split; 0 = none")
    p.add_argument("--across", action="store_true", help="print the sets under all protocols in one table")
    p.add_argument("--full-epochs", type=int, help="also a row of the full data trained for so many epochs")
    p.add_argument("--flow", help="generator.path of methods that sample as flows do (pgfm); default: the others'")
    p.add_argument("--teacher", help="teacher.path, for soft labels")
    p.add_argument("--teacher-architecture", help="teacher.architecture, where the path is a file")
    p.add_argument("--teacher-classes", help="teacher.classes, where the path is a file")
    args = parsed(p, argv)
    args.overrides = [*teacher(args), *args.overrides]
    args.variants = yaml.safe_load(args.variants.read_text()) if args.variants else {}
    args.methods = list(args.variants) or args.methods
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = arguments(argv)

    def work(wanted: list[Row]) -> None:
        compute(args, grid(args, wanted, args.ipc, args.protocols))

    return carry(args, rows(args), work, summary)


if __name__ == "__main__":
    sys.exit(entry.program(main))
