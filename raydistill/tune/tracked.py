"""What a sweep tells MLflow: a parent run for it, and a child for each trial."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from raydistill.config import Config
from raydistill.identity import fingerprint
from raydistill.pipeline.tracked import flat
from raydistill.results.pairing import TrainingOutcome
from raydistill.state import Prepared
from raydistill.store.rundir import CONFIG
from raydistill.tracking.destination import LOCAL, Destination
from raydistill.tracking.tracker import Tracker, Tracking, tracking
from raydistill.tune.drawing import BATCH
from raydistill.tune.findings import TrialRow


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
    trainings: bool = False  # whether each has a run of its own, below its trial's

    def trial(self, row: TrialRow) -> None:
        """A child run; one that is tracked again stays the one it was."""
        key = fingerprint("trial", self.key, row.number)
        with self.uploads.run(key, row.candidate.name, parent=self.parent) as child:
            child.params(row.candidate.values)
            child.tags({"raydistill.trial": str(row.number)})
            if row.failed:
                child.end("FAILED", row.failed)
                return
            calls = {"network_calls": row.measured.calls} if row.measured.calls else {}
            child.metrics({**calls, **row.measured.metrics, **row.values})
            if row.measured.stopped:
                child.tags({"raydistill.stopped": f"after test {row.measured.stopped}"})
            if row.measured.batch:
                child.tags({"raydistill.halved": f"{BATCH}={row.measured.batch}: the GPU was full"})
            for outcome in row.measured.outcomes if self.trainings else ():
                self._training(key, outcome, child)

    def _training(self, key: str, outcome: TrainingOutcome, trial: Tracker) -> None:
        """A run below a trial's."""
        own_key = fingerprint("training", key, outcome.student, outcome.training)
        with self.uploads.run(own_key, f"{outcome.student} seed {outcome.training}", parent=trial) as training:
            training.params({"student": outcome.student, "seed": outcome.training})
            training.metrics({"accuracy": outcome.top1, "accuracy_balanced": outcome.balanced})

    def best(self, row: TrialRow, done: int) -> None:
        """The best so far, after so many trials."""
        self.parent.metrics({f"best/{name}": value for name, value in row.values.items()}, done)

    def end(self, tree: Mapping[str, Any], files: Sequence[str]) -> None:
        """The three scores, and the files that people look at."""
        for where, stand in tree["scores"].items():
            for who in ("winner", "default", "difference"):
                self.parent.metrics({f"{where}/{who}": stand[who]["mean"]})
        self.parent.tags({"raydistill.verdict": tree["verdict"], "raydistill.winner": tree["winner"]["trial"]})
        for file in (CONFIG, *files):
            self.parent.file(file)


@contextmanager
def following(p: Prepared, where: Destination | None, key: str) -> Iterator[TrackedSweep | None]:
    """Follows a sweep to its end. None if nobody wants to know."""
    if where is None:
        yield None
        return
    with tracking(where, p.run.root) as uploads, uploads.run(key, p.run.root.name) as parent:
        parent.params(flat(p.config))
        parent.tags({"raydistill.fingerprint": key, "raydistill.run_dir": str(p.run.root)})
        with uploads.watching(parent):
            yield TrackedSweep(uploads, parent, key, p.config.tracking.trainings)
