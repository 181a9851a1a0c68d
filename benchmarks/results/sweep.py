"""What a sweep says: `tune` with the overrides of a row of sweeps.yaml, whose study is kept and becomes a page's table.

    python benchmarks/results/sweep.py --config nette128 --row mgd3 --work runs/sweeps -- \
        source.path=DIR vae.path=DIR generator.path=DIR

The run directory is WORK/sweep-ROW, with the study page and best.yaml in it; stage outputs lie in WORK/artifacts, which
all rows share. Killed and given again it goes on. What is kept is study.json with when, where and by which commit it
was made; `--print` gives its table. The default of a sweep is the configuration as it is, so that the first line says
whether that is beaten.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from grids import markdown, stamp

from raydistill import cli, strict_json
from raydistill.report.text import plural
from raydistill.store.location import Location
from raydistill.store.rundir import STUDY
from raydistill.tune import cells, verdict
from raydistill.tune.live import SECONDS
from raydistill.tune.page import best_first, estimate, points, value

HERE = Path(__file__).resolve().parent
ROWS = HERE / "sweeps.yaml"


def path(args: argparse.Namespace) -> Path:
    """Where the study of the row is kept."""
    return args.out / f"sweep-seed{args.seed}.json"


def compute(args: argparse.Namespace) -> int:
    """Runs the sweep, or goes on with it, and keeps its study. Returns the exit code."""
    run = args.work / f"sweep-{args.row}"
    folders = [f"run_dir={run}", f"artifact_dir={args.work / 'artifacts'}", f"seed={args.seed}"]
    code = cli.main(["tune", "--config", args.config, *args.overrides, *folders])
    if code:
        return code
    root = Location.of(str(run))
    about = {"machine": f"{os.cpu_count()} cores, {platform.machine()}", "made": stamp()}
    about |= strict_json.mapping((root / SECONDS).read())  # over all starts
    cells.write(path(args), {"study": strict_json.mapping((root / STUDY).read()), **about})
    return 0


def summary(args: argparse.Namespace) -> str:
    """The verdict, the three scores, and every trial, best first; nothing before there is a study."""
    if not path(args).exists():
        return ""
    kept = strict_json.mapping(path(args).read_bytes())
    study = kept["study"]
    space = f"{len(study['trials'])} trials by {study['search']} over {'; '.join(study['space'])}"
    luck = f"Of the lead in the search {100 * study['luck']:.1f} points did not come again with other seeds."
    shares = ", ".join(f"{key} {100 * share:.0f} %" for key, share in study["importance"].items())
    parts = [
        f"**{study['verdict']}.** {space}; {plural(round(kept['seconds'] / 60), 'minute')}.",
        scores(study),
        " ".join([luck, *([f"How much each knob mattered: {shares}."] if shares else [])]),
        trials(study),
    ]
    return "\n\n".join(parts)


def scores(study: Mapping[str, Any]) -> str:
    """Winner and default where they were measured, and how far they are apart in pairs."""
    stands = [study["scores"][where] for where in verdict.WHERE]
    lines = [
        [s["on"], estimate(s["winner"]), estimate(s["default"]), points(s["difference"]), str(s["difference"]["seeds"])]
        for s in stands
    ]
    return markdown(["accuracy, %", "winner", "default", "difference, points", "pairs"], lines)


def trials(study: Mapping[str, Any]) -> str:
    again = {m["name"]: estimate(m["score"]) for m in study["again"] if not m["failed"]}
    lines = [
        [
            t["name"],
            *(value(t["values"][key]) if key in t["values"] else "–" for key in study["knobs"]),
            t["failed"] or estimate(t["score"]),
            again.get(t["name"], "–"),
        ]
        for t in [*best_first(study["trials"]), study["default"]]
    ]
    return markdown(["trial", *study["knobs"], "held out, %", "by other seeds, %"], lines)


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    rows: Mapping[str, Sequence[str]] = yaml.safe_load(ROWS.read_text())
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--config", default="nette128", help="preset or YAML file")
    p.add_argument("--row", choices=list(rows), required=True, help="of sweeps.yaml")
    p.add_argument("--seed", type=int, default=0, help="of the suggestions, and the first generation seed")
    p.add_argument("--work", type=Path, default=Path("runs/sweeps"), help="where runs go")
    p.add_argument("--out", type=Path, help="where the study is kept; default benchmarks/results/sweep-ROW")
    p.add_argument("--print", action="store_true", help="the table of the study that is kept, nothing is computed")
    p.add_argument("overrides", nargs="*", help="KEY=VALUE, after --")
    args = p.parse_args(argv)
    args.work, args.out = args.work.resolve(), args.out or HERE / f"sweep-{args.row}"
    args.overrides = [*rows[args.row], *args.overrides]
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = arguments(argv)
    if not args.print and (code := compute(args)):
        return code
    print(summary(args))
    return 0


if __name__ == "__main__":
    sys.exit(main())
