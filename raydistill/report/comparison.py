"""Several runs on one page: what they are worth, how they differ, and their images side by side."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from raydistill.report import calls, text, wording
from raydistill.report.contents import with_contents
from raydistill.report.data import Curves, Difference, Judgement
from raydistill.report.images import data_uri, display_copy
from raydistill.report.page import IMAGE_BUDGET, environment, learning
from raydistill.report.scores import BOUNDS, Measure, ScoreRow
from raydistill.report.verdict import best

MAX_CLASSES = 20
SLOTS = 6
ACCURACY = "accuracy/"
NO_ROWS = (ACCURACY, "time/", "metrics/", "difference/", "w2/curve/", "parts/")
KINDS = {"last": "", "balanced": "balanced_", "best": "best_"}


@dataclass(frozen=True)
class ComparedRun:
    """A finished run: its flat result.json, its configuration by dotted keys, PNG bytes by class name.

    `page` is where its own page lies, as a link from this one; runs of other `rules` are shown and not compared.
    """

    name: str
    metrics: dict[str, float]
    config: dict[str, Any]
    images: dict[str, list[bytes]]
    count: int
    page: str | None = None
    rules: str = ""


@dataclass(frozen=True)
class ComparedSet:
    """A set: a run's own, or one of its baselines, and the cells of each student. `best` of each: last, a class."""

    run: ComparedRun
    baseline: str
    cells: tuple[dict[str, str], ...]
    best: tuple[tuple[str, ...], ...]


def render(
    runs: Sequence[ComparedRun],
    pairs: Sequence[Difference] = (),
    measure: Measure = "top-1",
    curves: Sequence[Curves] = (),
) -> str:
    """The page as HTML text, one self-contained file. `pairs` are the differences of the runs' own sets, by run, and
    `curves` what students have learned from them."""
    classes = [c for c in dict.fromkeys(c for r in runs for c in r.images)][:MAX_CLASSES]
    shown = [b for r in runs for c in classes for b in r.images.get(c, ())[:SLOTS]]
    encode = display_copy if sum(map(len, shown)) > IMAGE_BUDGET else data_uri
    pictures = [
        (c, [(r.name, [encode(b) for b in r.images[c][:SLOTS]]) for r in runs if c in r.images]) for c in classes
    ]
    html = (
        environment()
        .get_template("comparison.html")
        .render(
            runs=runs,
            measure=measure,
            alike=len({r.rules for r in runs}) == 1,
            students=students(runs),
            rows=[row for r in runs for row in table_rows(r, runs)],
            curves=[learning(c) for c in curves],
            claims=claims(runs, pairs, measure),
            pairs_of_sets=[(wording.rows(pairs), False)] if pairs else [],
            others=others(runs),
            differences=differences(runs),
            calls=[(c.title, calls.draw(c)) for c in calls.charts([_set(r) for r in runs], measure)],
            pictures=pictures,
            left_out=len({c for r in runs for c in r.images}) - len(classes),
            pixelated=all(r.config.get("source.image_size", 0) < 64 for r in runs),
        )
    )
    return text.printable_lines(with_contents(html))


def claims(runs: Sequence[ComparedRun], pairs: Sequence[Difference], measure: Measure) -> list[tuple[str, str]]:
    """Of each student the best of the runs that share their rules; where no two do, that nothing is compared."""
    shared: dict[str, list[ComparedRun]] = {}
    for run in runs:
        shared.setdefault(run.rules, []).append(run)
    if len(runs) > 1 and len(shared) == len(runs):
        return [("all", "Not compared: these runs have different protocols, widths or teachers")]
    said = []
    for alike in shared.values():
        judged = Judgement(tuple(s for r in alike for s in _rows(r)), 0.0, tuple(pairs), measure)
        said += [(s, claim) for s in students(alike) if (claim := best(judged, s, what="runs"))]
    return said


def students(runs: Sequence[ComparedRun]) -> list[str]:
    """Students that any run has scored with its own set, in order of appearance."""
    keys = dict.fromkeys(k for r in runs for k in r.metrics)
    return [k.split("/")[1] for k in keys if k.startswith(ACCURACY) and k.count("/") == 2 and k.endswith("/mean")]


def baselines(run: ComparedRun) -> list[str]:
    """Sets beside its own that students were trained on, in order of appearance, as result.json spells them."""
    keys = dict.fromkeys(k for k in run.metrics if k.startswith(ACCURACY) and k.count("/") == 3)
    return list(dict.fromkeys(k.split("/")[1] for k in keys if k.endswith("/mean")))


def table_rows(run: ComparedRun, runs: Sequence[ComparedRun]) -> list[ComparedSet]:
    """A run's own set, and below it its baselines. The best of a column is marked among the runs' own sets alone, and
    only where all were trained on by the same rules."""
    named, alike = students(runs), len({r.rules for r in runs}) == 1
    bounds = {name.replace(" ", "_"): name for name in BOUNDS}

    def highest(student: str, kind: str) -> bool:
        values = {r.name: r.metrics.get(f"{ACCURACY}{student}/{kind}mean", -1.0) for r in runs}
        end = max(values.values())
        return alike and len(runs) > 1 and end >= 0 and text.percent(values[run.name]) == text.percent(end)

    best_of = tuple(tuple(k for k, kind in KINDS.items() if highest(s, kind)) for s in named)
    rows = [ComparedSet(run, "", tuple(_score(run, s) for s in named), best_of)]
    for name in baselines(run):
        cells = tuple(_score(run, f"{name}/{s}") for s in named)
        rows.append(ComparedSet(run, bounds.get(name, name), cells, ((),) * len(named)))
    return rows


def _score(run: ComparedRun, student: str) -> dict[str, str]:
    """The cells of one row; a dash where the run has no such score."""

    def cell(kind: str) -> str:
        prefix = f"{ACCURACY}{student}/{kind}"
        mean, std = run.metrics.get(f"{prefix}mean"), run.metrics.get(f"{prefix}std")
        if mean is None:
            return "–"
        return text.spread(mean, std or None)  # runs of older versions have 0 for a single training

    return {k: cell(kind) for k, kind in KINDS.items()}


def _rows(run: ComparedRun) -> list[ScoreRow]:
    """What its own set is worth to each student, under the name of the run."""
    rows = []
    for student in students([run]):
        values = {k.removeprefix(f"{ACCURACY}{student}/"): v for k, v in run.metrics.items()}
        mean, balanced = values["mean"], values.get("balanced_mean", math.nan)
        last = (mean, values.get("std"), values.get("best_mean", mean), values.get("best_std"))
        rows.append(ScoreRow(run.name, student, 0, *last, run.count, False, balanced, values.get("balanced_std")))
    return rows


def _set(run: ComparedRun) -> tuple[str, str, bool, dict[str, float]]:
    """A run as `calls.charts` wants it: runs of one method are one line."""
    return run.name, str(run.config.get("method", run.name)), False, run.metrics


def others(runs: Sequence[ComparedRun]) -> list[tuple[str, list[str]]]:
    """Every metric that is neither an accuracy nor a time nor of another set, with each run's value. The points of a W2
    curve and the cells of the parts' matrix are no metrics: a run's own page draws them, and the slope and the
    redundancy have rows."""
    keys = sorted(
        {k for r in runs for k in r.metrics if not k.startswith(NO_ROWS)},
        key=lambda k: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", k)],
    )
    return [(k, [text.number(r.metrics[k]) if k in r.metrics else "–" for r in runs]) for k in keys]


def differences(runs: Sequence[ComparedRun]) -> list[tuple[str, list[str]]]:
    """Configuration keys in which the runs differ, with each run's value."""
    keys = sorted({k for r in runs for k in r.config} - {"run_dir", "artifact_dir"})
    rows = [(k, [_written(r.config.get(k, "–")) for r in runs]) for k in keys]
    return [(k, values) for k, values in rows if len(set(values)) > 1]


def _written(value: Any) -> str:
    """As it is written in a configuration."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
