"""Result tables: methods x generation seeds at each IPC and protocol, every cell committed to disk as it is finished.

    python benchmarks/results/table.py --config nette128 --methods random kmeans dit mgd3 --protocols hard fkd \
        --ipc 1 10 --seeds 0 1 2 --training-seeds 2 --full 3 --teacher SQUEEZENET.safetensors \
        --teacher-architecture squeezenet1_0 --teacher-classes imagenet1k --work runs/table -- \
        source.path=DIR vae.path=DIR generator.path=DIR

Run again after an interruption, it computes only the cells that are missing. A cell holds the accuracies of every
training; a table gives mean and standard deviation over generation seeds, each the mean over its training seeds. The
full-data rows, and methods without dice, have no generation seed: they are over training seeds. Hard and soft labels
are tables of their own; a soft one says how good the teacher is itself. Storage is what a set takes: encoded images,
and soft labels beside them.

`--variants FILE` takes rows from a YAML file instead of `--methods`: a name and its overrides, `method=` among them
(benchmarks/results/ablation.yaml is ManifoldGD's). `--metrics KEY ...` adds columns of result.json's metrics.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from raydistill import registry
from raydistill.config import load
from raydistill.errors import RaydistillError
from raydistill.report.data import FULL
from raydistill.stages import pipeline
from raydistill.stages.preflight import prepare
from raydistill.stages.results import metrics
from raydistill.stages.trainer import body, score

HERE = Path(__file__).resolve().parent
OTHER = ("accuracy/", "metrics/", "time/")  # of result.json: what is no metric of the set itself
LEFT_OUT = ("per_class", "confusion")  # of a score, to keep cells small


def cell(args: argparse.Namespace, ipc: int, protocol: str, method: str, seed: int) -> Path:
    name = re.sub(r"[^A-Za-z0-9.]+", "_", method)
    return args.out / f"ipc{ipc}-{protocol}-{name}-seed{seed}.json"


def compute(args: argparse.Namespace, ipc: int, protocol: str, method: str, seed: int) -> None:
    """One cell: distils with one method and seed, trains the students, writes the accuracies."""
    path = cell(args, ipc, protocol, method, seed)
    if path.exists():
        return
    full = method == FULL
    start = time.monotonic()
    config = load(
        args.config,
        [
            *teacher(args),
            *args.overrides,
            f"ipc={ipc}",
            f"seed={seed}",
            *(["method=random"] if full else args.variants.get(method, [f"method={method}"])),
            *flow(args, method),
            f"evaluate.protocol.name={protocol}",
            "evaluate.baselines=[]",
            f"evaluate.seeds={args.full if full else trainings(args, method)}",
            f"evaluate.full={str(full).lower()}",
            f"artifact_dir={args.work}/artifacts",
            f"run_dir={args.work}/{path.stem}",
        ],
    )
    done = pipeline.run(prepare(config), "evaluate")
    mine = [t for t in done.trainings if t.set.name == (FULL if full else config.method)]
    rows = [
        {"student": t.student, "training_seed": t.seed, **{k: v for k, v in s.tree().items() if k not in LEFT_OUT}}
        for t in mine
        if (s := score(t)) is not None
    ]
    about = body(mine[0]) or {}
    made = {
        "method": method,
        "ipc": ipc,
        "seed": seed,
        "rows": rows,
        "images": mine[0].set.images,
        **{key: about[key] for key in ("protocol", "protocol_name", "bytes", "teacher")},
        "metrics": {k: v for k, v in metrics(done).items() if not k.startswith(OTHER)},
        "costs": done.prepared.run.read_json("logs/costs.json") or {},
        "wall_s": round(time.monotonic() - start, 1),
        "config": portable(config.tree()),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {config.evaluate.num_gpus:g} GPUs a worker",
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".tmp").write_text(json.dumps(made, indent=1, sort_keys=True) + "\n")
    path.with_suffix(".tmp").rename(path)


def flow(args: argparse.Namespace, method: str) -> list[str]:
    """The generator of a method that samples as flows do, if another one is given for those."""
    if args.flow is None or method not in registry.names("method"):
        return []
    spaces = registry.get("sampler", registry.get("method", method).sampler).spaces
    return [f"generator.path={args.flow}"] if "velocity" in spaces else []


def varies(args: argparse.Namespace, method: str) -> bool:
    """Whether a generation seed changes the set: herding and k-centre have no dice, so they get training seeds."""
    return method in args.variants or method not in ("herding", "kcenter")


def trainings(args: argparse.Namespace, method: str) -> int:
    return args.training_seeds * (1 if varies(args, method) else len(args.seeds))


def teacher(args: argparse.Namespace) -> list[str]:
    given = {"path": args.teacher, "architecture": args.teacher_architecture, "classes": args.teacher_classes}
    return [f"teacher.{key}={value}" for key, value in given.items() if value]


def portable(tree: dict[str, Any]) -> dict[str, Any]:
    """A configuration without the folders of this machine."""
    for key in ("run_dir", "artifact_dir"):
        tree.pop(key)
    for section in ("source", "vae", "generator", "teacher", "features"):
        tree[section]["path"] = os.path.basename(tree[section]["path"] or "")
    return tree


def summary(args: argparse.Namespace) -> str:
    """A Markdown table a protocol, of the cells that are there."""
    tables = []
    for protocol in args.protocols:
        lines: list[str] = []
        cells: list[dict[str, Any]] = []
        for ipc in args.ipc:
            for method in [*args.methods, *([FULL] if args.full else [])]:
                seeds = [0] if method == FULL or not varies(args, method) else args.seeds
                paths = [cell(args, ipc, protocol, method, s) for s in seeds]
                found = [json.loads(p.read_text()) for p in paths if p.exists()]
                cells += found
                lines += table_rows(ipc, method, found, args.metrics)
        if cells:
            tables.append("\n".join([*heading(cells[0], args.metrics), *lines]))
    return "\n\n".join(tables)


def heading(first: dict[str, Any], metrics: Sequence[str] = ()) -> list[str]:
    """Name of the protocol, the teacher if there is one, and the head of the table."""
    by = first["teacher"]
    labels = f"soft labels by {by['architecture']} ({100 * by['accuracy']:.1f} % itself)" if by else "hard labels"
    return [
        f"Protocol {first['protocol_name']}; {labels}.",
        "",
        "| ipc | set | student | images | storage, kB | last top-1, % | best top-1, % | over |"
        + "".join(f" {m} |" for m in metrics),
        "|---|---|---|---|---|---|---|---|" + "---|" * len(metrics),
    ]


def table_rows(ipc: int, method: str, cells: list[dict[str, Any]], metrics: Sequence[str] = ()) -> list[str]:
    """A line a student, and with several of them their mean and the worst."""
    if not cells:
        return []
    students = list(dict.fromkeys(r["student"] for r in cells[0]["rows"]))
    scores = {s: {k: of_student(cells, s, k) for k in ("last", "best")} for s in students}
    seeds = len(cells[0]["rows"]) // len(students)
    one = len(cells) == 1
    over = f"{seeds} training seeds" if one else f"{len(cells)} generation x {seeds} training seeds"
    stored = statistics.mean(sum(c["bytes"].values()) for c in cells) / 1000
    head = f"| {ipc} | {method} |"
    tail = f"{cells[0]['images']} | {stored:,.0f} |"
    more = "".join(f" {of_metric(cells, m)} |" for m in metrics)
    lines = [
        f"{head} {s} | {tail} {spread(v['last'])} | {spread(v['best'])} | {over} |{more}" for s, v in scores.items()
    ]
    if len(students) > 1:
        for name, pick in (("mean of all", statistics.mean), ("worst", min)):
            both = [
                spread([pick(one) for one in zip(*(v[k] for v in scores.values()), strict=True)])
                for k in ("last", "best")
            ]
            lines.append(f"{head} {name} | {tail} {both[0]} | {both[1]} | {over} |")
    return lines


def of_student(cells: list[dict[str, Any]], student: str, key: str) -> list[float]:
    """One value a generation seed, the mean over its training seeds; one a training seed where there is one set."""
    values = [[100 * r[key] for r in c["rows"] if r["student"] == student] for c in cells]
    return values[0] if len(cells) == 1 else [statistics.mean(v) for v in values]


def of_metric(cells: list[dict[str, Any]], name: str) -> str:
    """Mean over generation seeds; a dash where it was not computed."""
    values = [c["metrics"][name] for c in cells if name in c.get("metrics", {})]
    return f"{statistics.mean(values):.3g}" if values else "–"


def spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values) if len(values) > 1 else 0:.1f}"


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--config", default="nette128", help="preset or YAML file")
    p.add_argument("--methods", nargs="+", default=["random", "kmeans", "dit", "mgd3", "mgd3_ddim"])
    p.add_argument("--variants", type=Path, help="YAML: rows and their overrides, instead of --methods")
    p.add_argument("--metrics", nargs="*", default=[], help="columns: keys of result.json, such as fid/latent")
    p.add_argument("--protocols", nargs="+", default=["hard"], help="hard, rded, fkd: a table each")
    p.add_argument("--ipc", nargs="+", type=int, default=[10])
    p.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="generation seeds")
    p.add_argument("--training-seeds", type=int, default=2, help="trainings a generated set")
    p.add_argument("--full", type=int, default=3, help="trainings on the whole training split; 0 = none")
    p.add_argument("--flow", help="generator.path of methods that sample as flows do (pgfm); default: the others'")
    p.add_argument("--teacher", help="teacher.path, for soft labels")
    p.add_argument("--teacher-architecture", help="teacher.architecture, where the path is a file")
    p.add_argument("--teacher-classes", help="teacher.classes, where the path is a file")
    p.add_argument("--work", type=Path, default=Path("runs/table"), help="where runs and shared artifacts go")
    p.add_argument("--out", type=Path, default=None, help="where cells go; default benchmarks/results/CONFIG")
    p.add_argument("--print", action="store_true", help="print the tables of the finished cells and stop")
    p.add_argument("overrides", nargs="*", help="KEY=VALUE for every cell, after --")
    args = p.parse_args()
    args.work = args.work.resolve()
    args.variants = yaml.safe_load(args.variants.read_text()) if args.variants else {}
    args.methods = list(args.variants) or args.methods
    args.out = args.out or HERE / Path(args.config).stem
    if not args.print:
        sets = [(m, s) for s in args.seeds for m in args.methods if s == args.seeds[0] or varies(args, m)]
        sets = [(m, s if varies(args, m) else 0) for m, s in sets] + ([(FULL, 0)] if args.full else [])
        jobs = [(ipc, protocol, m, s) for ipc in args.ipc for protocol in args.protocols for m, s in sets]
        try:
            for job in jobs:
                compute(args, *job)
        except RaydistillError as e:
            print(f"error: {e}", file=sys.stderr)
            return e.exit_code
    print(summary(args))
    return 0


if __name__ == "__main__":
    sys.exit(main())
