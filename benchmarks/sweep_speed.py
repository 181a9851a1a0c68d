"""A sweep against as many separate runs: the same trials, once by `tune` and once by `distill` each on its own.

    python benchmarks/sweep_speed.py --trials 6
    python benchmarks/sweep_speed.py --config nette128 --trials 20 --asha -- \\
        source.path=IMAGENETTE vae.path=TAESD generator.path=NETTE128_DIT

Trials are scales of guidance, one seed each, every student trained as long. The sweep also draws and trains what its
verdict needs (the default, the finalist and the winner by further seeds); the separate runs do not. The first separate
run gives the costs of a stage, from which the ratio to expect is computed and printed before anything else is measured.
With --asha the sweep is run once more with ASHA, whose saving is a row of its own. All sides start with nothing.
Separate runs differ in nothing but a scale and cost the same: `--runs N` makes N of them, spread over the scales, and
counts the others at the mean of those, which the table says.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

from measure import RESULTS, Watched, job, machine, save, table, watch

SPLIT = 0.3  # of the training images, which trials are scored on
FINALISTS, FINAL_SEEDS = 1, 2
ONCE = ("encode", "group", "cluster")
TRAINING = "evaluate"
ALONE = ["evaluate.seeds=1", "evaluate.baselines=[]", "evaluate.full=false"]


@dataclass(frozen=True)
class Seconds:
    wall: float
    cpu: float

    @classmethod
    def of(cls, done: Watched) -> Seconds:
        return cls(done.end - done.start, done.cpu[-1][1])


@dataclass(frozen=True)
class RunCosts:
    """Seconds of one separate run: what images cost once, drawing a set and all else of a trial, training on it, and
    the rest: start, listing, report."""

    once: float
    drawing: float
    training: float
    rest: float

    @classmethod
    def of(cls, costs: Mapping[str, Mapping[str, float]], whole: float) -> RunCosts:
        """By logs/costs.json."""
        seconds = {stage: c["seconds"] for stage, c in costs.items()}
        once, training = sum(seconds.pop(stage, 0.0) for stage in ONCE), seconds.pop(TRAINING, 0.0)
        drawing = sum(seconds.values())
        return cls(once, drawing, training, whole - once - drawing - training)

    @property
    def whole(self) -> float:
        return self.once + self.drawing + self.training + self.rest


def candidates(trials: int) -> int:
    """Sets that a sweep draws and trains on: its trials and the default, the finals on held-out and on test images."""
    return trials + 1 + (FINALISTS + 1) * FINAL_SEEDS + 2 * FINAL_SEEDS


def expected(costs: RunCosts, trials: int, workers: int) -> float:
    """How many times as long the separate runs take by the clock. The sweep starts once, encodes what trials learn from
    and, for the test, all training images, and keeps every worker at a training where a run of one student has one."""
    images = costs.once * (1 + 1 / (1 - SPLIT))
    sets = candidates(trials) * (costs.drawing + costs.training / workers)
    return trials * costs.whole / (costs.rest + images + sets)


def spread(values: Sequence[float], n: int) -> list[float]:
    """n of the values, evenly over their order, the first among them. Raises ValueError."""
    if not 1 <= n <= len(values):
        raise ValueError(f"--runs: from 1 to {len(values)}, not {n}")
    return [values[i * len(values) // n] for i in range(n)]


def altogether(runs: Sequence[Seconds], trials: int) -> Seconds:
    """Of so many runs, those that were not made counted at the mean of those that were."""
    times = trials / len(runs)
    return Seconds(sum(s.wall for s in runs) * times, sum(s.cpu for s in runs) * times)


def row(name: str, s: Seconds, trials: int) -> list[str]:
    return [name, f"{s.wall:.0f}", f"{s.cpu:.0f}", f"{s.wall / trials:.1f}", f"{s.cpu / trials:.1f}"]


def swept(args: argparse.Namespace, common: Sequence[str], name: str, *more: str) -> Seconds:
    """One sweep over the scales, in WORK/NAME."""
    sizes = {"search": "grid", "samples": args.trials, "seeds": 1, "together": args.together or args.trials}
    sizes |= {"finalists": FINALISTS, "final_seeds": FINAL_SEEDS}
    space = f"tune.space.guidance.scale=[{','.join(map(str, scales(args.trials)))}]"
    keys = [*common, *(f"tune.{k}={v}" for k, v in sizes.items()), space, *more]
    return Seconds.of(watch(job("tune", *keys, f"run_dir={args.work / name}"), args.work / f"{name}.log"))


def scales(trials: int) -> list[float]:
    return [round(float(s), 4) for s in np.geomspace(0.01, 0.5, trials)]


def main(argv: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--config", default="quickstart", help="preset or YAML file")
    p.add_argument("--trials", type=int, default=20)
    p.add_argument("--together", type=int, default=None, help="trials a round; default: all in one")
    p.add_argument("--runs", type=int, default=None, help="separate runs that are made; default: one a trial")
    p.add_argument("--asha", action="store_true", help="also the sweep with ASHA")
    p.add_argument("--work", type=Path, default=Path("runs/sweep-speed"), help="where runs go; old ones are removed")
    p.add_argument("--out", type=Path, default=None, help="default: benchmarks/results/speed/sweep-CONFIG.json")
    p.add_argument("overrides", nargs="*", help="KEY=VALUE for all runs, after --")
    args = p.parse_args(argv)
    try:
        separate = spread(scales(args.trials), args.trials if args.runs is None else args.runs)
    except ValueError as e:
        p.error(str(e))
    args.work = args.work.resolve()
    shutil.rmtree(args.work, ignore_errors=True)
    args.work.mkdir(parents=True)
    before, workers = machine(), os.cpu_count() or 1
    config = args.config if not Path(args.config).is_file() else str(Path(args.config).resolve())
    common = ["--config", config, *args.overrides, f"source.search_split={SPLIT}"]
    runs: list[Seconds] = []
    for i, scale in enumerate(separate):
        run = args.work / f"run-{i}"
        words = job("distill", *common, *ALONE, f"guidance.scale={scale}", f"run_dir={run}")
        runs.append(Seconds.of(watch(words, args.work / f"run-{i}.log")))
        if i == 0:
            costs = RunCosts.of(json.loads((run / "logs" / "costs.json").read_text()), runs[0].wall)
            wanted = expected(costs, args.trials, workers)
            print(f"one run: {costs}; expected of {args.trials} trials: {wanted:.2f} times", flush=True)
    separate, name = altogether(runs, args.trials), f"{args.trials} separate runs"
    if len(runs) < args.trials:
        walls = [s.wall for s in runs]
        name += f", {len(runs)} made ({min(walls):.0f} to {max(walls):.0f} s), the others at their mean"
    sides = {name: separate, "one sweep": swept(args, common, "sweep")}
    if args.asha:
        sides["one sweep with ASHA"] = swept(args, common, "asha", "tune.scheduler=asha")
    sweep = sides["one sweep"]
    head = ["", "seconds", "CPU s", "seconds a trial", "CPU s a trial"]
    text = table(head, [row(name, s, args.trials) for name, s in sides.items()]) + (
        f"\n\nThe separate runs take {separate.wall / sweep.wall:.2f} times as long by the clock, "
        f"{separate.cpu / sweep.cpu:.2f} by CPU seconds; by the costs of one run {wanted:.2f} by the clock was to be "
        f"expected.\nThe sweep drew and trained on {candidates(args.trials)} sets, the runs on {args.trials}."
    )
    body = {"machine": before, "trials": args.trials, "expected": wanted}
    body |= {"runs": [vars(s) for s in runs], "one_run": vars(costs)} | {name: vars(s) for name, s in sides.items()}
    save(args.out or RESULTS / f"sweep-{Path(args.config).stem}.json", body, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
