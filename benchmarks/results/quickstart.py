"""What the sets of the quickstart are worth: the trainings of its runs, kept, and every pair of sets of a run.

    python jobs/distill.py
    python jobs/distill.py method=pgfm run_dir=runs/quickstart-pgfm
    python benchmarks/results/quickstart.py runs/quickstart runs/quickstart-pgfm

Takes finished runs whose sets were drawn by one generation seed and keeps one file a run, of which it prints a table
each, as the page of the run has it; without runs those of what is kept.
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

from grids import HERE, compared, markdown, spread, stamp
from intervals import accuracy, over_classes

from raydistill.config import load
from raydistill.report.data import Judgement
from raydistill.report.scores import FULL, ScoreRow
from raydistill.report.text import plural
from raydistill.results import differences
from raydistill.results.judgement import chance
from raydistill.sources.base import open_splits
from raydistill.store.rundir import CONFIG, TRAININGS
from raydistill.tune.cells import write
from raydistill.tune.kept import machine
from raydistill.tune.outcomes import outcomes

Tree = dict[str, Any]


def keep(run: Path, out: Path) -> None:
    """The trainings of a run, a list a set in the form of a grid's cells."""
    config = load(str(run / CONFIG))
    train = open_splits(config.source).train
    sets: dict[str, Tree] = {}
    for t in json.loads((run / TRAININGS).read_text()):
        images = len(train) if t["set"] == FULL else config.ipc * len(train.classes)
        empty = {"set": t["set"], "images": images, "visits": t["curve"][-1][0], "rows": []}
        rows = sets.setdefault(t["set"], empty)["rows"]
        best = max(top1 for _, top1 in t["curve"])
        row = {"student": t["student"], "training_seed": t["training"], "last": t["top1"], "best": best}
        rows.append(row | {key: t[key] for key in ("balanced", "right", "tested")})
    about = {"method": config.method, "ipc": config.ipc, "machine": machine(config), "made": stamp()}
    write(out / f"{config.method}-seed{config.seed}.json", {"sets": list(sets.values()), **about})


def files(args: argparse.Namespace) -> list[Path]:
    """One a run."""
    return sorted(args.out.glob("*-seed*.json"))


def judged(kept: Tree) -> Judgement:
    """What the run said of its sets."""
    trained = [o for s in kept["sets"] for o in outcomes(s["set"], [s])]
    tested = kept["sets"][0]["rows"][0]["tested"]
    scores = tuple(score(s, s["set"] == kept["method"]) for s in kept["sets"])
    return Judgement(scores, chance(np.array(tested)), tuple(differences.table(trained)), generations=1,
                     tested=tuple(tested))  # fmt: skip


def score(of: Tree, main: bool) -> ScoreRow:
    def both(key: str) -> tuple[float, float | None]:
        values = [r[key] for r in of["rows"]]
        return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None

    student = of["rows"][0]["student"]
    return ScoreRow(of["set"], student, len(of["rows"]), *both("last"), *both("best"), of["images"], main,
                    *both("balanced"), visits=of["visits"])  # fmt: skip


def summary(args: argparse.Namespace) -> str:
    """Of each run a row a set and the differences of all pairs; nothing before one is kept."""
    return "\n\n".join(of_run(json.loads(path.read_text())) for path in files(args))


def of_run(kept: Tree) -> str:
    lines = []
    for one in kept["sets"]:
        trained, rows = outcomes(one["set"], [one]), one["rows"]
        last, best = (spread([100 * r[key] for r in rows]) for key in ("last", "best"))
        scores = [last, *accuracy(trained).cells[1:], best, over_classes(trained)]
        lines.append([one["set"], f"{one['images']:,}", *scores, plural(len(rows), "training seed")])
    head = ["set", "images", "last top-1, %", "95 %, seeds", "and images", "best top-1, %", "a class, %", "over"]
    pairs = compared(kept["ipc"], [(one["set"], [one]) for one in kept["sets"]])
    return f"The run of {kept['method']}:\n\n{markdown(head, lines)}\n\n{pairs}"


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("runs", nargs="*", type=Path, help="directories of finished runs, to keep")
    p.add_argument("--out", type=Path, default=HERE / "quickstart", help="where what is kept goes")
    return p.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = arguments(argv)
    for run in args.runs:
        keep(run, args.out)
    print(summary(args))
    return 0


if __name__ == "__main__":
    sys.exit(main())
