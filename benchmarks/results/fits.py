"""Computes cells: samples what they ask for, and trains on the sets of all that differ in their rows alone in one fit.

Finished cells are left alone. Of an interrupted fit the finished trainings are found again by their fingerprints.
"""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from cells import DIVERGED, Cell, accuracy, metric, shown, write

from raydistill.config import Config, load
from raydistill.errors import StageFailed
from raydistill.pipeline import job
from raydistill.pipeline.preflight import prepare
from raydistill.pipeline.steps import Steps
from raydistill.report.data import FULL
from raydistill.results.numbers import metrics
from raydistill.stages.evaluation.image_sets import SetRef
from raydistill.stages.evaluation.trainer import body, score
from raydistill.state import Prepared, Results

OTHER = ("accuracy/", "metrics/", "time/")  # of result.json: what is no metric of the set itself
LEFT_OUT = ("per_class", "confusion")  # of a score, to keep cells small


def configured(args: argparse.Namespace, cell: Cell, run_dir: Path, artifacts: Path | None = None) -> Config:
    return load(
        args.config,
        [
            f"evaluate.seeds={args.training_seeds}",
            *args.overrides,
            *cell.row.overrides,
            *([f"evaluate.protocol.name={cell.protocol}"] if cell.protocol else []),
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
    for _, group in groupby(cells, lambda c: (c.ipc, c.protocol, c.seed)):
        left = [c for c in group if not c.path(args.out).exists()]
        ready = [(c, prepare(configured(args, c, args.work / c.path(args.out).stem))) for c in left]
        fits: dict[str, list[tuple[Cell, Prepared, SetRef]]] = {}
        for cell, p in ready:
            if (ref := sampled(args, cell, p)) is not None:
                fits.setdefault(fit_of(p.config), []).append((cell, p, ref))
        for fit in fits.values():
            for cell, done in together(fit):
                write(cell.path(args.out), about(cell) | numbers(done) | more(done))
                say(cell, cell.read(args.out) or {})


def about(cell: Cell) -> dict[str, Any]:
    return {"row": cell.row.name, "ipc": cell.ipc, "seed": cell.seed, **dict(cell.row.numbers)}


def sampled(args: argparse.Namespace, cell: Cell, p: Prepared) -> SetRef | None:
    """The set that a cell trains on. None if its samples ran off; then the cell is written here."""
    if cell.row.name == FULL:
        job.start_run(p)
        return SetRef.full(p.splits.train)
    try:
        made = job.run(p, "sample").syntheses[p.config.method]
    except StageFailed as e:
        if "non-finite" not in str(e):
            raise
        write(cell.path(args.out), about(cell) | {DIVERGED: str(e)})
        print(f"CELL {cell}: {DIVERGED}", flush=True)
        return None
    return SetRef.of(cell.row.name, made)


def fit_of(config: Config) -> str:
    """What a fit has one of: where these differ (another number of training seeds, say) trainings need another fit."""
    return config.model_dump_json(include={"ipc", "source", "evaluate", "teacher", "label"})


def together(fit: Sequence[tuple[Cell, Prepared, SetRef]]) -> Iterator[tuple[Cell, Results]]:
    """Trains on all sets in one fit, whose trainings the runs of the cells then find by fingerprint."""
    steps = Steps(fit[0][1])
    refs = list({ref.digest: ref for _, _, ref in fit}.values())  # rows may have made the same images
    every = steps.trainings(refs)
    for cell, own, ref in fit:
        if ref.made is not None:
            yield cell, job.run(own, "evaluate")
        else:
            yield cell, Results(own, teaching=steps.teaching(refs), trainings=[t for t in every if t.set == ref])


def numbers(done: Results) -> dict[str, Any]:
    """What a cell keeps of a run: calls, accuracies, metrics, where samples ended and how long their way was."""
    config, mine = done.prepared.config, done.trainings
    first = body(mine[0]) or {}
    flat = {k: v for k, v in metrics(done).items() if not k.startswith(OTHER)}
    calls = flat.pop("network_calls", 0.0)  # nothing is asked for real images
    rows = [
        {"student": t.student, "training_seed": t.seed, **{k: v for k, v in s.tree().items() if k not in LEFT_OUT}}
        for t in mine
        if (s := score(t)) is not None
    ]
    return {
        "method": mine[0].set.name,
        "images": mine[0].set.images,
        "rows": rows,
        **{key: first[key] for key in ("protocol", "protocol_name", "bytes", "teacher")},
        "metrics": flat,
        "calls": calls,
        **ended(done),
        "config": portable(config.tree()),
        "machine": machine(config),
    }


def ended(done: Results) -> dict[str, Any]:
    """Means over slots: `landing`, and of flows `detour`; null where there is none."""
    made = done.syntheses.get(done.prepared.config.method)
    if made is None:  # all images, as they are
        return {"landing": None, "detour": None}
    counted = made.numbers()
    return {name: s and round(s.mean, 6) for name, s in (("landing", counted.landing), ("detour", counted.detour))}


def say(cell: Cell, made: dict[str, Any]) -> None:
    found = [f"{accuracy([made], k)} % {k}" for k in ("last", "best")]
    coverage = shown(metric([made], "mode_coverage_ipc_nearest"))
    print(
        f"CELL {cell}: {made['calls']:g} calls, {', '.join(found)}, "
        f"coverage {coverage}, landing {shown([made['landing']] if made['landing'] is not None else [], 3)}",
        flush=True,
    )


def portable(tree: dict[str, Any]) -> dict[str, Any]:
    """A configuration without the folders of this machine."""
    for key in ("run_dir", "artifact_dir"):
        tree.pop(key)
    for section in ("source", "vae", "generator", "teacher", "features"):
        tree[section]["path"] = os.path.basename(tree[section]["path"] or "")
    return tree


def machine(config: Config) -> str:
    return f"{os.cpu_count()} cores, {platform.machine()}, {config.evaluate.num_gpus:g} GPUs a worker"
