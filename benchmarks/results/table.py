"""One result table: methods x generation seeds at one IPC, every cell committed to disk as it is finished.

    python benchmarks/results/table.py --config nette128 --methods random kmeans dit mgd3 mgd3_ddim --seeds 0 1 2 \
        --training-seeds 2 --full 3 --work runs/table -- source.path=DIR vae.path=DIR generator.path=DIR

Run again after an interruption, it computes only the cells that are missing. A cell holds the accuracies of every
training; the table gives mean and standard deviation over generation seeds, each the mean over its training seeds. The
full-data row has no generation seed: it is over training seeds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from raydistill.config import load
from raydistill.errors import RaydistillError
from raydistill.stages import pipeline
from raydistill.stages.preflight import prepare
from raydistill.stages.trainer import score

HERE = Path(__file__).resolve().parent
FULL = "full data"


def cell(args: argparse.Namespace, method: str, seed: int) -> Path:
    return args.out / f"ipc{args.ipc}-{method.replace(' ', '_')}-seed{seed}.json"


def compute(args: argparse.Namespace, method: str, seed: int) -> None:
    """One cell: distils with one method and seed, trains the students, writes the accuracies."""
    path = cell(args, method, seed)
    if path.exists():
        return
    full = method == FULL
    start = time.monotonic()
    config = load(
        args.config,
        [
            *args.overrides,
            f"ipc={args.ipc}",
            f"seed={seed}",
            f"method={'random' if full else method}",
            "evaluate.baselines=[]",
            f"evaluate.seeds={args.full if full else args.training_seeds}",
            f"evaluate.full={str(full).lower()}",
            f"artifact_dir={args.work}/artifacts",
            f"run_dir={args.work}/{path.stem}",
        ],
    )
    done = pipeline.run(prepare(config), "evaluate")
    rows = [
        {"student": t.student, "training_seed": t.seed, **{k: v for k, v in s.tree().items() if k != "per_class"}}
        for t in done.trainings
        if t.set.name == method and (s := score(t)) is not None
    ]
    costs = done.prepared.run.read_json("logs/costs.json") or {}
    tree = config.tree()
    for key in ("run_dir", "artifact_dir"):
        tree.pop(key)
    for section in ("source", "vae", "generator"):
        tree[section]["path"] = os.path.basename(tree[section]["path"] or "")
    body = {
        "method": method,
        "ipc": args.ipc,
        "seed": seed,
        "rows": rows,
        "images": rows and done.trainings[-1].set.images,
        "costs": costs,
        "wall_s": round(time.monotonic() - start, 1),
        "config": tree,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, no GPU",
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".tmp").write_text(json.dumps(body, indent=1, sort_keys=True) + "\n")
    path.with_suffix(".tmp").rename(path)


def summary(args: argparse.Namespace) -> str:
    """The Markdown table of the cells that are there."""
    lines = ["| set | images | last top-1, % | best top-1, % | over |", "|---|---|---|---|---|"]
    for method in [*args.methods, *([FULL] if args.full else [])]:
        seeds = [0] if method == FULL else args.seeds
        cells = [json.loads(p.read_text()) for s in seeds if (p := cell(args, method, s)).exists()]
        if not cells:
            continue
        if method == FULL:
            last, best = ([100 * r[k] for r in cells[0]["rows"]] for k in ("last", "best"))
            over = f"{len(last)} training seeds"
        else:
            last, best = ([100 * statistics.mean(r[k] for r in c["rows"]) for c in cells] for k in ("last", "best"))
            over = f"{len(cells)} generation x {len(cells[0]['rows'])} training seeds"
        lines.append(f"| {method} | {cells[0]['images']} | {spread(last)} | {spread(best)} | {over} |")
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values) if len(values) > 1 else 0:.1f}"


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--config", default="nette128", help="preset or YAML file")
    p.add_argument("--methods", nargs="+", default=["random", "kmeans", "dit", "mgd3", "mgd3_ddim"])
    p.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="generation seeds")
    p.add_argument("--training-seeds", type=int, default=2, help="trainings a generated set")
    p.add_argument("--full", type=int, default=3, help="trainings on the whole training split; 0 = none")
    p.add_argument("--ipc", type=int, default=10)
    p.add_argument("--work", type=Path, default=Path("runs/table"), help="where runs and shared artifacts go")
    p.add_argument("--out", type=Path, default=None, help="where cells go; default benchmarks/results/CONFIG")
    p.add_argument("--print", action="store_true", help="print the table of the finished cells and stop")
    p.add_argument("overrides", nargs="*", help="KEY=VALUE for every cell, after --")
    args = p.parse_args()
    args.work = args.work.resolve()
    args.out = args.out or HERE / Path(args.config).stem
    if not args.print:
        jobs = [(m, s) for s in args.seeds for m in args.methods] + ([(FULL, 0)] if args.full else [])
        try:
            for method, seed in jobs:
                compute(args, method, seed)
        except RaydistillError as e:
            print(f"error: {e}", file=sys.stderr)
            return e.exit_code
    print(summary(args))
    return 0


if __name__ == "__main__":
    sys.exit(main())
