"""The images of trials: a grid of a set, a row a class, for the page of a sweep and those of its trials."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from raydistill.config.loading import written
from raydistill.report import text
from raydistill.report.images import display_copy
from raydistill.report.page import environment
from raydistill.stages.evaluation.image_sets import SetRef
from raydistill.store.location import Location
from raydistill.store.rundir import CONFIG, TRIAL_PAGES
from raydistill.tune.findings import Findings
from raydistill.tune.plan import SweepPlan

CLASSES, OF_EACH = 10, 10  # that a grid shows at most


def images(ref: SetRef | None) -> list[list[str]]:
    """Of the first classes their first slots."""
    if ref is None or ref.distilled is None:
        return []
    rows: dict[int, list[tuple[int, bytes]]] = {}
    for table in ref.distilled.tables(["class_index", "slot", "image"]):
        for c, slot, image in zip(*(table[k].to_pylist() for k in ("class_index", "slot", "image")), strict=True):
            if c < CLASSES and slot < OF_EACH:
                rows.setdefault(c, []).append((slot, image))
    return [[display_copy(image) for _, image in sorted(rows[c])] for c in sorted(rows)]


def best_and_worst(study: Findings) -> list[tuple[str, list[list[str]]]]:
    """The sets, by the first seed, of the best trial by the search and of the worst that was trained in full."""
    whole = [r for r in study.ranked() if not r.measured.stopped]
    ends = [("best", whole[0]), ("worst", whole[-1])][: len(whole)] if whole else []
    return [(f"The {which}: {r.candidate.name}", images(r.measured.ref)) for which, r in ends]


def trial_pages(study: Findings, tree: Mapping[str, Any], plan: SweepPlan) -> Iterator[tuple[str, str]]:
    """A page for each trial that has a set: its values, every training, its images, and how to get a whole report."""
    template = environment().get_template("trial.html")
    for row, data in zip(study.rows, tree["trials"], strict=True):
        if row.measured.ref is not None:
            html = template.render(trial=data, rows=images(row.measured.ref), command=command(data, plan))
            yield f"{TRIAL_PAGES}/{row.number}.html", text.printable_lines(html)


def command(data: Mapping[str, Any], plan: SweepPlan) -> str:
    """What gives this trial a run of its own with a report, on the same held-out images; its set is there already."""
    run = plan.held_out.run
    keys = {
        "artifact_dir": run.artifacts,
        "run_dir": beside(run.root, f"-trial-{data['trial']}"),
        "source.search_split": plan.held_out.config.source.search_split,
        **data["values"],
    }
    words = [
        "raydistill",
        "distill",
        "--config",
        str(run.root / CONFIG),
        *(f"{k}={written(v)}" for k, v in keys.items()),
    ]
    return shlex.join(words)


def beside(root: Location, ending: str) -> str:
    """A folder with the name of another and this ending; what a URI says of its store stays behind the name."""
    head, mark, options = (root.uri, "", "") if root.is_local else root.uri.partition("?")
    return f"{head}{ending}{mark}{options}"
