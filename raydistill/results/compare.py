"""report RUN RUN...: finished runs on one page."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import yaml

from raydistill.errors import BadInput, CorruptArtifact
from raydistill.exporters.base import AGAIN, numbers, tables
from raydistill.identity import canonical
from raydistill.report.comparison import SLOTS, ComparedRun, render
from raydistill.report.data import Curves
from raydistill.results import detail, differences, outcomes
from raydistill.results.judgement import measures
from raydistill.results.pairing import TrainingOutcome
from raydistill.sources.base import uneven
from raydistill.store import seals
from raydistill.store.location import Location
from raydistill.store.rundir import CONFIG, PAGE, RESULT, TRAININGS

PROTOCOL, WIDTH, TEACHER = "evaluate.protocol.", "evaluate.width", "teacher/accuracy"


def compare(run_dirs: Sequence[str], out: str) -> str:
    """Writes the page of several runs to the file `out`; returns its path. Raises BadInput for what is no run."""
    names = short_names(run_dirs)
    runs = [read(run_dir, name) for run_dir, name in zip(run_dirs, names, strict=True)]
    of_runs = [own_trainings(run_dir, run) for run_dir, run in zip(run_dirs, runs, strict=True)]
    trained = [o for outcomes_of_run in of_runs for o in outcomes_of_run]
    compared = measures(any(map(_uneven, runs, of_runs)))
    path = Path(out).expanduser().absolute()
    if path.is_dir() or not path.parent.is_dir():
        raise BadInput(f"--out {out}: must be a file in a folder that exists")
    linked = [replace(run, page=_link(run_dir, path)) for run_dir, run in zip(run_dirs, runs, strict=True)]
    text = render(linked, differences.table(trained, compared), compared[0], curves(of_runs))
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
    of_run = dict(_flat(config))
    return ComparedRun(name, flat, of_run, images, count, rules=rules(of_run, flat))


def rules(config: Mapping[str, Any], result: Mapping[str, float]) -> str:
    """What the students of two runs must have in common for their sets to be compared: protocol and length, image size
    and width, and the teacher, told by its accuracy. How often they are tested, and in what arithmetic, is no part."""
    shared = {k: v for k, v in config.items() if k.startswith(PROTOCOL) and k != f"{PROTOCOL}evaluations"}
    shared |= {WIDTH: config.get(WIDTH), TEACHER: result.get(TEACHER)}
    return canonical({k: v for k, v in shared.items() if v is not None})


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
    return [replace(o, set=run.name, rules=run.rules) for o in trainings if o.set == run.config["method"]]


def _uneven(run: ComparedRun, trained: Sequence[TrainingOutcome]) -> bool:
    """Whether the run's own page is led by the mean over classes: by the classes that it trained on, which its numbers
    show where it compared sets, or by those that it was tested on."""
    tested = [[len(a) for a in o.answers or ()] for o in trained]
    led = any(key.startswith("difference/") and "/balanced/" in key for key in run.metrics)
    return led or any(uneven(np.array(sizes)) for sizes in tested if sizes)


def curves(of_runs: Sequence[Sequence[TrainingOutcome]]) -> list[Curves]:
    """Of each student the line of each run's own set."""
    charts = []
    for student in dict.fromkeys(o.student for outcomes_of_run in of_runs for o in outcomes_of_run):
        lines = []
        for outcomes_of_run in of_runs:
            known = [o for o in outcomes_of_run if o.student == student and o.curve]
            if known:
                lines.append(detail.band(known[0].set, [(o.digest, o.curve) for o in known]))
        charts += [Curves(student, tuple(lines))] if lines else []
    return charts


def _link(run_dir: str, page: Path) -> str | None:
    """From the page to that of a run; None for one that a browser cannot follow."""
    root = Location.of(run_dir)
    if not (root.is_local and _there(root / PAGE)):
        return None
    return quote(os.path.join(os.curdir, os.path.relpath(str(root / PAGE), page.parent)))  # 'a:b' is no scheme


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
