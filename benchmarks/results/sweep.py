"""What a sweep says: `tune` with the overrides of a row of sweeps.yaml, whose study is kept and becomes a page's table.

    python benchmarks/results/sweep.py --config nette128 --row mgd3 --work runs/sweeps -- \
        source.path=DIR vae.path=DIR generator.path=DIR

The run directory is WORK/sweep-ROW, with the study page and best.yaml in it; stage outputs lie in WORK/artifacts, which
all rows share. Killed and given again it goes on. What is kept is study.json with when, where and by which commit it
was made, and a plot of it; `--print` gives its table. The default of a sweep is the configuration as it is, so that the
first line says whether that is beaten.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import figure
from grids import markdown, stamp

from raydistill import cli, entry, strict_json
from raydistill.report.text import minus, plural
from raydistill.store.location import Location
from raydistill.store.rundir import STUDY
from raydistill.tune import cells, verdict
from raydistill.tune.live import SECONDS
from raydistill.tune.page import best_first, estimate, points, value, whole
from raydistill.tune.parallel import logarithmic

HERE = Path(__file__).resolve().parent
ROWS = HERE / "sweeps.yaml"
PLOT = "plot.svg"
ASKED = {"--dry-run", "--print-config"}  # of the verb, which then computes nothing


def path(args: argparse.Namespace) -> Path:
    """Where the study of the row is kept."""
    return args.out / f"sweep-seed{args.seed}.json"


def files(args: argparse.Namespace) -> list[Path]:
    """The study, if there is one."""
    return [path(args)] if path(args).exists() else []


def compute(args: argparse.Namespace) -> int:
    """Runs the sweep, or goes on with it, and keeps its study. Returns the exit code."""
    run = args.work / f"sweep-{args.row}"
    folders = [f"run_dir={run}", f"artifact_dir={args.work / 'artifacts'}", f"seed={args.seed}"]
    code = cli.main(["tune", "--config", args.config, *args.overrides, *folders])
    if code or ASKED & {*args.overrides}:
        return code
    root = Location.of(str(run))
    about = {"machine": f"{os.cpu_count()} cores, {platform.machine()}", "made": stamp()}
    about |= strict_json.mapping((root / SECONDS).read())  # over all starts
    study = strict_json.mapping((root / STUDY).read())
    cells.write(path(args), {"study": study, **about})
    plot(study, args.out / PLOT)
    return 0


def plot(study: Mapping[str, Any], file: Path) -> None:
    """A panel a knob: accuracy of the trials over it with intervals over seeds, the winner in colour, the default as a
    band."""
    sheet, panels = figure.panels(1, len(study["knobs"]), 3.6)
    default = study["default"]["score"]
    for axes, key in zip(panels[0], study["knobs"], strict=True):
        for t in (t for t in whole(study) if key in t["values"]):
            score, best = t["score"], t["name"] == study["winner"]["trial"]
            low, high = (score["mean"] if score[end] is None else score[end] for end in ("low", "high"))
            around = [[100 * (score["mean"] - low)], [100 * (high - score["mean"])]]
            colour = figure.COLOURS[1] if best else figure.COLOURS[5]
            at = {"fmt": "o", "markersize": 4, "color": colour, "elinewidth": 1, "zorder": 3 if best else 2}
            axes.errorbar(t["values"][key], 100 * score["mean"], around, **at)
        axes.axhline(100 * default["mean"], color=figure.COLOURS[0], linestyle="--", linewidth=1)
        if default["low"] is not None:
            axes.axhspan(100 * default["low"], 100 * default["high"], color=figure.COLOURS[0], alpha=0.1, linewidth=0)
        if logarithmic(study, key):
            figure.whole_numbers(axes, ends(t["values"][key] for t in whole(study) if key in t["values"]))
        axes.set(xlabel=key, ylabel="held out, %")
    figure.save(sheet, file)


def ends(values: Iterable[float]) -> list[float]:
    """The least, the middle in logarithms and the largest, to two digits."""
    every = sorted(values)
    marks = (every[0], (every[0] * every[-1]) ** 0.5, every[-1])
    return [float(f"{v:.2g}") for v in marks] if every else []


def summary(args: argparse.Namespace) -> str:
    """The verdict, the three scores, every trial, best first, and the plot; nothing before there is a study."""
    if not path(args).exists():
        return ""
    kept = strict_json.mapping(path(args).read_bytes())
    study = kept["study"]
    space = f"{len(study['trials'])} trials by {study['search']} over {'; '.join(study['space'])}"
    luck = "By other seeds the lead was no smaller than in the search."
    if study["luck"] >= 0.0005:
        luck = f"Of the lead in the search {100 * study['luck']:.1f} points did not come again with other seeds."
    shares = ", ".join(f"{key} {100 * share:.0f} %" for key, share in study["importance"].items())
    parts = [
        f"**{minus(study['verdict'])}.** {space}; {plural(round(kept['seconds'] / 60), 'minute')}.",
        scores(study),
        " ".join([luck, *([f"How much each knob mattered: {shares}."] if shares else [])]),
        trials(study),
    ]
    if (args.out / PLOT).exists():
        parts.append(f"![accuracy over each knob](../../benchmarks/results/{args.out.name}/{PLOT})")
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
    code = 0 if args.print else compute(args)
    if not code and not ASKED & {*args.overrides}:
        print(summary(args))
    return code


if __name__ == "__main__":
    sys.exit(entry.program(main))
