"""How far learnability leads at few steps of the path: curricula of the quickstart's digits, by learnability.every.

    python benchmarks/learnability_lead.py --seeds 0 1 2 3 --work runs/lead

Led by default and at every step, `method=lgd` grows once a generation seed, from the same noise: S of the candidates
that were chosen, by the students that led them, redundancy of the increments and accuracy of the set (one training
seed), each with its interval over seeds, and the difference paired by seed, by the engine of every run's own page
(docs/statistics.md). The cost is in steps: of those of a path, at how many a gradient is taken. A process a core makes
everything, without Ray. What is in WORK is not made again.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from measure import RESULTS, machine, save, table

from raydistill.config import load
from raydistill.distributed import students
from raydistill.pipeline import job
from raydistill.pipeline.preflight import prepare
from raydistill.report import wording
from raydistill.report.text import minus, percent
from raydistill.results import increments
from raydistill.results import statistics as st
from raydistill.stages.evaluation.trainer import Job, StudentTrainer, score
from raydistill.stages.runner import serial

ROWS = {"default": (), "at every step": ("learnability.every=1",)}
ALONE = ("evaluate.seeds=1", "evaluate.baselines=[]", "evaluate.full=false", "metrics.names=[]")
ALONE += ("evaluate.protocol.evaluations=1",)  # what is tested on the way changes nothing


@dataclass(frozen=True)
class Grown:
    """A curriculum of one generation seed. `chosen` is S, mean over the slots after the first increment; redundancy and
    accuracy are fractions; `led` counts the steps of `steps` at which learnability acted."""

    row: str
    seed: int
    chosen: float
    redundancy: float
    accuracy: float
    led: int
    steps: int


def fit(requested: Job, *_: object) -> None:
    """In the place of Ray Train."""
    trainer = StudentTrainer(requested, torch.device("cpu"), "cpu")
    for t in requested.trainings:
        trainer.run(t)


def alone() -> None:
    """What a process does first: a thread is its own, and students are trained in it."""
    torch.set_num_threads(1)
    students.fit = fit


def grow(row: str, seed: int, work: Path, overrides: Sequence[str]) -> Grown:
    name = f"{list(ROWS).index(row)}-{seed}"
    where = (f"run_dir={work / name}", f"artifact_dir={work / 'artifacts'}", f"seed={seed}")
    prepared = prepare(load("quickstart", ["method=lgd", *where, *ALONE, *ROWS[row], *overrides]))
    done = job.run(prepared, "evaluate", serial)
    numbers, (whole,) = increments.numbers(done), map(score, done.trainings)
    growth = prepared.variants[0].growth
    assert whole is not None and growth is not None and growth.next.sampling is not None
    led = sum(key.startswith("increments/2/score/") for key in numbers)
    redundancy = numbers[f"redundancy/{growth.how.student}"]
    steps = growth.next.sampling.steps
    return Grown(row, seed, numbers["learnability/chosen"], redundancy, whole.last, led, steps)


def begin(grow: Callable[[str, int], Grown], wanted: Sequence[tuple[str, int]], cores: int) -> list[Grown]:
    """All of them, on so many processes; a line each as they come."""
    grown = []
    with ProcessPoolExecutor(cores, multiprocessing.get_context("spawn"), alone) as pool:
        for one in pool.map(grow, *zip(*wanted, strict=True)):
            print(one, flush=True)
            grown.append(one)
    return grown


def plain(value: float) -> str:
    """S, which has no unit."""
    return minus(f"{value:.2f}")


def shown(values: Sequence[float], of: Callable[[float], str]) -> str:
    """The mean over seeds with its interval of 95 %: '1.94 [1.77, 2.12]', of a single seed without."""
    clusters = [np.array([v]) for v in values]
    interval = st.bootstrap(clusters)
    mean = of(st.mean(clusters))
    return mean if interval is None else f"{mean} [{of(interval.low)},\N{NO-BREAK SPACE}{of(interval.high)}]"


def rows(grown: Sequence[Grown]) -> tuple[list[list[str]], list[list[str]]]:
    """Of each setting its numbers, and of each but the first what it has more than that, paired by seed."""
    by = {row: {g.seed: g for g in grown if g.row == row} for row in dict.fromkeys(g.row for g in grown)}
    kinds = {"chosen": plain, "redundancy": percent, "accuracy": percent}
    absolute, paired = [], []
    first = next(iter(by.values()))
    for row, seeds in by.items():
        each = [shown([getattr(g, kind) for g in seeds.values()], of) for kind, of in kinds.items()]
        one = next(iter(seeds.values()))
        absolute.append([row, f"{one.led} of {one.steps}", *each, str(len(seeds))])
        if seeds is not first:
            points = kinds | dict.fromkeys(("redundancy", "accuracy"), wording.points)
            both = [seed for seed in seeds if seed in first]
            more = {k: [getattr(seeds[s], k) - getattr(first[s], k) for s in both] for k in kinds}
            paired.append([f"{row} − {next(iter(by))}", *(shown(more[k], points[k]) for k in kinds), str(len(both))])
    return absolute, paired


def text(grown: Sequence[Grown]) -> str:
    """Both tables in Markdown."""
    absolute, paired = rows(grown)
    measures = ["S of the chosen [95 %]", "redundancy, % [95 %]", "accuracy, % [95 %]"]
    more = [f"{m.replace(', %', ', points')}" for m in measures]
    tables = [table(["led", "steps led", *measures, "seeds"], absolute)]
    return "\n\n".join([*tables, *([table(["difference", *more, "pairs"], paired)] if paired else [])])


def main(argv: Sequence[str] | None = None) -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3], help="generation seeds")
    p.add_argument("--work", type=Path, default=Path("runs") / "lead", help="where runs go")
    p.add_argument("--cores", type=int, default=2)
    p.add_argument("--out", type=Path, default=RESULTS / "learnability-lead.json")
    p.add_argument("overrides", nargs="*", help="KEY=VALUE for every row, after --")
    args = p.parse_args(argv)
    before, wanted = machine(), [(row, seed) for seed in args.seeds for row in ROWS]
    one = partial(grow, work=args.work.resolve(), overrides=args.overrides)
    grown = begin(one, wanted, args.cores)
    save(args.out, {"machine": before, "grown": [vars(g) for g in grown]}, text(grown))
    return 0


if __name__ == "__main__":
    sys.exit(main())
