"""What a sweep tells MLflow: a parent run for it, and a child for each trial."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from raydistill.config import Config
from raydistill.identity import fingerprint
from raydistill.pipeline import tracked as pipeline_tracked
from raydistill.results.pairing import TrainingOutcome
from raydistill.state import Prepared
from raydistill.store.rundir import CONFIG, TRIAL_PAGES
from raydistill.tracking.destination import LOCAL, Destination
from raydistill.tracking.tracker import Tracker, Tracking, tracking
from raydistill.tune.drawing import BATCH
from raydistill.tune.findings import TrialRow
from raydistill.tune.plan import SweepPlan
from raydistill.tune.space import METHOD


def located(config: Config) -> Config:
    """A sweep is tracked in mlflow.db of this folder unless it says where; a submitted job's folder is thrown away."""
    if config.tracking.uri is not None or "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:
        return config
    return config.model_copy(update={"tracking": config.tracking.model_copy(update={"uri": LOCAL})})


@dataclass(frozen=True)
class TrackedSweep:
    """A tracked sweep."""

    uploads: Tracking
    parent: Tracker
    key: str
    prepared: Prepared  # the images that trials are scored on
    trainings: bool = False  # whether each has a run of its own, below its trial's

    def trial(self, row: TrialRow) -> None:
        """A child run; one that is tracked again stays the one it was."""
        key = fingerprint("trial", self.key, row.number)
        with self.uploads.run(key, row.candidate.name, parent=self.parent) as child:
            child.params(row.candidate.values)
            method = str(row.candidate.values.get(METHOD, self.prepared.config.method))
            child.tags({"raydistill.trial": str(row.number), "raydistill.method": method})
            if row.failed:
                child.end("FAILED", row.failed, changed=False)
                return
            costs = {"network_calls": row.measured.calls, "seconds": row.measured.seconds}
            child.metrics({**{k: v for k, v in costs.items() if v}, **row.measured.metrics, **row.values})
            for student, curve in row.measured.curves.items():
                for visits, top1 in curve:
                    child.metrics({f"curve/{student}": round(top1, 6)}, visits)
            self._set(child, row, method)
            if row.measured.stopped:
                child.tags({"raydistill.stopped": f"after test {row.measured.stopped}"})
            if row.measured.batch:
                child.tags({"raydistill.halved": f"{BATCH}={row.measured.batch}: the GPU was full"})
            for outcome in row.measured.outcomes if self.trainings else ():
                self._training(key, outcome, child)
            child.end("FINISHED", changed=False)

    def _set(self, child: Tracker, row: TrialRow, method: str) -> None:
        """The set of a trial by its first seed."""
        distilled = None if row.measured.ref is None else row.measured.ref.distilled
        if distilled is not None:
            artifacts = self.prepared.run.artifacts
            child.dataset(pipeline_tracked.distilled_set(self.prepared, method, distilled, artifacts))
            child.metrics({"effective_sample_size": distilled.sample_size()})
            pipeline_tracked.images(child, self.prepared, method, distilled)

    def _training(self, key: str, outcome: TrainingOutcome, trial: Tracker) -> None:
        """A run below a trial's."""
        own_key = fingerprint("training", key, outcome.student, outcome.training)
        with self.uploads.run(own_key, f"{outcome.student} seed {outcome.training}", parent=trial) as training:
            training.params({"student": outcome.student, "seed": outcome.training})
            training.metrics({"accuracy": outcome.top1, "accuracy_balanced": outcome.balanced})
            training.end("FINISHED", changed=False)

    def best(self, row: TrialRow, done: int) -> None:
        """The best so far, after so many trials."""
        self.parent.metrics({f"best/{name}": value for name, value in row.values.items()}, done)

    def end(self, tree: Mapping[str, Any], files: Sequence[str], pages: Sequence[str], computed: bool) -> None:
        """The three scores, and the files that people look at; `pages` are those of trials."""
        for where, stand in tree["scores"].items():
            for who in ("winner", "default", "difference"):
                self.parent.metrics({f"{where}/{who}": stand[who]["mean"]})
        verdict = tree["verdict"]
        self.parent.tags({"raydistill.winner": tree["winner"]["trial"], "raydistill.verdict": verdict})
        self.parent.tags({"mlflow.note.content": f"{verdict}."})
        for file in (CONFIG, *files):
            self.parent.file(file)
        for page in pages:
            self.parent.file(page, TRIAL_PAGES)
        self.parent.end("FINISHED", changed=computed)


@contextmanager
def following(plan: SweepPlan, where: Destination | None, key: str) -> Iterator[TrackedSweep | None]:
    """Follows a sweep to its end. None if nobody wants to know."""
    if where is None:
        yield None
        return
    p = plan.held_out
    with tracking(where, p.run.root) as uploads, uploads.run(key, p.run.root.name) as parent:
        parent.params(pipeline_tracked.flat(p.config))
        fixed = {"raydistill.method": p.config.method, "raydistill.run_dir": str(p.run.root)}
        parent.tags({"raydistill.fingerprint": key, **fixed})
        splits = {"source": p.splits.train, "held out": p.splits.test, "testing": plan.tested.splits.test}
        for context, listing in splits.items():
            parent.dataset(pipeline_tracked.source(p.config, listing, context))
        with uploads.watching(parent):
            yield TrackedSweep(uploads, parent, key, p, p.config.tracking.trainings)
