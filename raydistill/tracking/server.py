"""Brings journals into MLflow through its client. Doing it again changes nothing: what is there already is left out."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raydistill.errors import StageFailed
from raydistill.progress import say
from raydistill.tracking.destination import Destination, patient, reason
from raydistill.tracking.journal import Entry, Journal, merged

ID_TAG, PARENT_TAG = "raydistill.id", "mlflow.parentRunId"
KIND = {"mlflow.experimentKind": "custom_model_development"}  # MLflow's pages for trainings, not for chats
BATCH = 500  # metrics a request, of which MLflow takes 1,000
REFUSED = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")

Point = tuple[str, int, int, float]  # key, step, milliseconds, value


class NotYet(StageFailed):
    """The parent of a run is not in MLflow."""


@dataclass
class Known:
    """What MLflow has of a run."""

    run_id: str
    experiment_id: str
    params: set[str]
    datasets: set[tuple[str, str]]
    points: dict[str, set[Point]] = field(default_factory=dict)  # of the keys that were looked at
    empty: bool = False  # it was made just now


class Server:
    """One store of MLflow. Its methods raise whatever MLflow's client raises when the store does not take something."""

    def __init__(self, destination: Destination) -> None:
        self.destination = destination
        self._runs: dict[str, Known] = {}
        self._opened: Any = None

    def push(self, journal: Journal, entries: Sequence[Entry]) -> None:
        """Brings these entries of a journal to the store, making the run there if it is not there yet."""
        if not entries:
            return
        run = self._runs.get(journal.key) or self._open(journal)
        known, mine = self._runs.setdefault(journal.key, run), list(entries)
        first = next((e for e in mine if e["kind"] == "begin"), None)
        if first is not None and mine[-1]["kind"] != "end":
            self._client.update_run(known.run_id, status="RUNNING")
        self._numbers(known, mine)
        self._files(journal, known, mine)
        self._datasets(known, mine)
        states = [e for e in mine if e["kind"] in ("begin", "end")]
        if states and states[-1]["kind"] == "end":
            self._client.set_terminated(known.run_id, states[-1]["status"], states[-1]["time"])

    def page(self, journal: Journal) -> str:
        """Where a person sees the run."""
        known = self._runs.get(journal.key)
        return self.destination.viewer if known is None else self.destination.page(known.experiment_id, known.run_id)

    @property
    def _client(self) -> Any:
        if self._opened is None:
            patient()
            import logging

            logging.getLogger("mlflow").setLevel(logging.ERROR)
            logging.getLogger("alembic").setLevel(logging.ERROR)
            from mlflow.tracking import MlflowClient

            self._opened = MlflowClient(self.destination.uri)
        return self._opened

    def _open(self, journal: Journal) -> Known:
        """The run that the card names if the store knows it, the one with the tag of the card, or a new one."""
        experiment = self._experiment()
        run = self._by_id(journal.card.runs.get(self.destination.name)) or self._by_tag(experiment, journal.card.id)
        new = run is None
        if run is None:
            begun = next(e for e in journal.known if e["kind"] == "begin")
            tags = {ID_TAG: journal.card.id}
            if journal.card.parent:
                parent = self._by_tag(experiment, journal.card.parent)
                if parent is None:
                    raise NotYet("its parent is not there")
                tags[PARENT_TAG] = parent.info.run_id
            new_run = self._client.create_run(experiment, start_time=begun["time"], tags=tags, run_name=begun["name"])
            run = self._by_tag(experiment, journal.card.id) or new_run  # of two drivers at once the older run stands
            if run.info.run_id != new_run.info.run_id:
                self._client.delete_run(new_run.info.run_id)
        journal.remember(self.destination.name, run.info.run_id)
        sets = {(d.dataset.name, d.dataset.digest) for d in run.inputs.dataset_inputs} if run.inputs else set()
        return Known(run.info.run_id, run.info.experiment_id, set(run.data.params), sets, empty=new)

    def _experiment(self) -> str:
        name = self.destination.experiment
        experiment = self._client.get_experiment_by_name(name)
        if experiment is not None:
            return experiment.experiment_id
        if self.destination.artifacts is not None:
            Path(self.destination.artifacts).mkdir(parents=True, exist_ok=True)
        return self._client.create_experiment(name, artifact_location=self.destination.artifacts, tags=KIND)

    def _by_id(self, run_id: str | None) -> Any:
        from mlflow.exceptions import MlflowException

        if run_id is None:
            return None
        try:
            run = self._client.get_run(run_id)
        except MlflowException as e:
            if e.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        return run if run.info.lifecycle_stage == "active" else None

    def _by_tag(self, experiment: str, card_id: str) -> Any:
        runs = self._client.search_runs([experiment], f"tags.`{ID_TAG}` = '{card_id}'")
        return min(runs, key=lambda run: (run.info.start_time, run.info.run_id), default=None)

    def _numbers(self, known: Known, entries: Sequence[Entry]) -> None:
        from mlflow.entities import Metric, Param, RunTag

        params = [Param(k, v) for k, v in merged(entries, "params").items() if k not in known.params]
        tags = [RunTag(k, v) for k, v in merged(entries, "tags").items()]
        if params or tags:
            self._unless_refused(lambda: self._client.log_batch(known.run_id, params=params, tags=tags))
        known.params |= {p.key for p in params}
        points = [
            (key, e["step"], e["time"], value)
            for e in entries
            if e["kind"] == "metrics"
            for key, value in e["values"].items()
        ]
        missing = [p for p in dict.fromkeys(points) if p not in self._points(known, p[0])]
        for start in range(0, len(missing), BATCH):
            part = missing[start : start + BATCH]
            batch = [Metric(key, value, time, step) for key, step, time, value in part]
            self._unless_refused(lambda batch=batch: self._client.log_batch(known.run_id, metrics=batch))  # type: ignore[misc]
            for p in part:
                known.points[p[0]].add(p)

    def _points(self, known: Known, key: str) -> set[Point]:
        if key not in known.points:
            history = [] if known.empty else self._client.get_metric_history(known.run_id, key)
            known.points[key] = {(m.key, m.step, m.timestamp, m.value) for m in history}
        return known.points[key]

    def _files(self, journal: Journal, known: Known, entries: Sequence[Entry]) -> None:
        for name, folder in merged(entries, "files").items():
            try:
                data = (journal.root / name).read()
            except FileNotFoundError:  # of an earlier state of the run directory
                continue
            with tempfile.TemporaryDirectory() as temporary:
                copy = Path(temporary) / Path(name).name
                copy.write_bytes(data)
                self._unless_refused(
                    lambda copy=copy, folder=folder: self._client.log_artifact(known.run_id, str(copy), folder or None)  # type: ignore[misc]
                )

    def _datasets(self, known: Known, entries: Sequence[Entry]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        for e in entries:
            if e["kind"] == "dataset" and (e["name"], e["digest"]) not in known.datasets:
                dataset = Dataset(e["name"], e["digest"], e["source_type"], e["source"], profile=e["profile"])
                inputs = [DatasetInput(dataset, [InputTag("mlflow.data.context", e["context"])])]
                self._unless_refused(lambda inputs=inputs: self._client.log_inputs(known.run_id, inputs))  # type: ignore[misc]
                known.datasets.add((e["name"], e["digest"]))

    def _unless_refused(self, call: Callable[[], object]) -> None:
        """What a store will never take is left out and said: the rest must not wait behind it."""
        from mlflow.exceptions import MlflowException

        try:
            call()
        except MlflowException as e:
            if e.error_code not in REFUSED:
                raise
            say("tracking", f"{self.destination.uri} refuses something, which is left out: {reason(e)}")
