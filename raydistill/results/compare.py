"""report RUN RUN...: finished runs on one page."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from raydistill.errors import BadInput, CorruptArtifact
from raydistill.exporters.base import AGAIN, numbers, tables
from raydistill.report.comparison import SLOTS, ComparedRun, render
from raydistill.results import differences, outcomes
from raydistill.results.judgement import measures
from raydistill.results.pairing import TrainingOutcome
from raydistill.store import seals
from raydistill.store.location import Location
from raydistill.store.rundir import CONFIG, RESULT, TRAININGS


def compare(run_dirs: Sequence[str], out: str) -> str:
    """Writes the page of several runs to the file `out`; returns its path. Raises BadInput for what is no run."""
    names = short_names(run_dirs)
    runs = [read(run_dir, name) for run_dir, name in zip(run_dirs, names, strict=True)]
    trained = [o for run_dir, run in zip(run_dirs, runs, strict=True) for o in own_trainings(run_dir, run)]
    tested = [len(a) for o in trained for a in o.answers or ()]
    compared = measures(2 * min(tested, default=0) < max(tested, default=0))
    path = Path(out).expanduser().absolute()
    if path.is_dir() or not path.parent.is_dir():
        raise BadInput(f"--out {out}: must be a file in a folder that exists")
    text = render(runs, differences.table(trained, compared), compared[0])
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as e:
        raise BadInput(f"--out {out}: cannot be written: {e.strerror}") from None
    return str(path)


def read(run_dir: str, name: str) -> ComparedRun:
    """A run directory: its configuration, result.json and the first images of each class in distilled/.

    Raises BadInput for what is no finished run, CorruptArtifact for a file that is not as it was sealed.
    """
    root = Location.of(run_dir)
    for file in (CONFIG, RESULT):
        if seals.find(root, file) is None and not _there(root / file):
            raise BadInput(
                f"{run_dir}: not a finished run (it has no {file}); give directories that distill or evaluate printed"
            )
    config = yaml.safe_load(seals.read(root, CONFIG, AGAIN))
    flat = numbers(root)
    images: dict[str, list[bytes]] = {}
    count = 0
    for table in tables(root):
        count += len(table)
        for row in table.filter(pa.compute.less(table["slot"], SLOTS)).to_pylist():
            images.setdefault(row["class_name"], []).append(row["image"]["bytes"])
    return ComparedRun(name, flat, dict(_flat(config)), images, count)


def own_trainings(run_dir: str, run: ComparedRun) -> list[TrainingOutcome]:
    """What came of the trainings on a run's own set, under the name of the run; none of a run of an older version.

    Raises CorruptArtifact.
    """
    root = Location.of(run_dir)
    if seals.find(root, TRAININGS) is None and not _there(root / TRAININGS):
        return []
    try:
        trainings = outcomes.read(seals.read(root, TRAININGS, AGAIN))
    except ValueError as e:
        raise CorruptArtifact(f"{root / TRAININGS} does not hold the trainings of a run: {e}; {AGAIN}") from None
    return [replace(o, set=run.name) for o in trainings if o.set == run.config["method"]]


def _there(file: Location) -> bool:
    try:
        return file.exists()
    except (OSError, ValueError):  # a name too long, or no place at all
        return False


def short_names(places: Sequence[str]) -> list[str]:
    """The last part of each path, with as many parent folders as it takes to tell them apart."""
    parts = [p.rstrip("/").split("/") for p in (str(Location.of(p)) for p in places)]
    if len({tuple(p) for p in parts}) < len(parts):
        raise BadInput("report: the same run is named twice")
    depth = 1
    while len({tuple(p[-depth:]) for p in parts}) < len(parts):
        depth += 1
    return ["/".join(p[-depth:]) for p in parts]


def _flat(tree: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, value in tree.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", os.path.basename(value) if key == "path" and value else value))
    return rows
