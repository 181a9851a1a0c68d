"""What Prometheus may read of a run while it goes on, beside Ray's own, at the metrics port of the driver's node.

Ray puts `ray_` before each name. `run` is the run directory. docs/clusters/grafana.json draws them.
"""

from __future__ import annotations

import math
from typing import Any

import ray
from ray.util import metrics

from raydistill.errors import printable
from raydistill.progress import Advanced, Committed, Event, Finished, Listener, Measured, Queued, Retried, Started

BY_STAGE = ("run", "stage")
COUNTERS = {
    "raydistill_units": "Units finished: images encoded, sampled, trainings; see the tag unit.",
    "raydistill_committed_bytes": "Bytes of committed files.",
    "raydistill_retries": "Units tried once more, because a worker died or was late.",
    "raydistill_stage_failures": "Stages that ended with an error.",
}
GAUGES = {
    "raydistill_units_left": "Units that a stage has before it.",
    "raydistill_queue_depth": "Units that wait for a worker.",
    "raydistill_running_units": "Units that workers are at.",
    "raydistill_workers": "Actors of a stage's pool, starting and idle ones too.",
    "raydistill_measured": "The latest of a value that a step measures, such as a loss; see the tag quantity.",
}
TAGS = {"raydistill_units": (*BY_STAGE, "unit"), "raydistill_measured": (*BY_STAGE, "quantity")}
_known: dict[tuple[str, str], Any] = {}  # by Ray's session, which ends with its metrics, and name


def listener(run: str) -> Listener:
    """Tells Ray's metrics what goes on in a run. It does not start Ray: that is a stage's business."""
    return RunMetrics(run)


class RunMetrics:
    """The numbers of one run, by its events. What was finished before Ray was up is counted when it is."""

    def __init__(self, run: str) -> None:
        self.run = run
        self.unit: dict[str, str] = {}
        self.left: dict[str, int] = {}
        self._early: list[Event] = []

    def __call__(self, event: Event) -> None:
        if not ray.is_initialized():
            self._early.append(event)
            return
        early, self._early = self._early, []
        for one in (*early, event):
            self._tell(one)

    def _tell(self, event: Event) -> None:
        match event:
            case Started():
                self.unit[event.stage], self.left[event.stage] = event.unit, event.total - event.before
                self._set("raydistill_units_left", self.left[event.stage], event.stage)
            case Advanced():
                self.left[event.stage] = self.left.get(event.stage, 0) - event.units
                self._add("raydistill_units", event.units, event.stage, unit=self.unit.get(event.stage, ""))
                self._set("raydistill_units_left", self.left[event.stage], event.stage)
            case Committed():
                self._add("raydistill_committed_bytes", event.bytes, event.stage)
            case Retried():
                self._add("raydistill_retries", 1, event.stage)
            case Queued():
                self._set("raydistill_queue_depth", event.waiting, event.stage)
                self._set("raydistill_running_units", event.running, event.stage)
                self._set("raydistill_workers", event.workers, event.stage)
            case Measured():
                for name, value in ((k, v) for k, v in event.values.items() if math.isfinite(v)):
                    self._set("raydistill_measured", value, event.stage, quantity=name)
            case Finished() if not event.whole:
                self._add("raydistill_stage_failures", 1, event.stage)

    def _add(self, name: str, amount: float, stage: str, **more: str) -> None:
        if amount > 0:  # Ray refuses to count nothing
            _metric(name).inc(amount, _tags(run=self.run, stage=stage, **more))

    def _set(self, name: str, value: float, stage: str, **more: str) -> None:
        _metric(name).set(value, _tags(run=self.run, stage=stage, **more))


def _tags(**tags: str) -> dict[str, str]:
    """Ray takes ASCII only; people's folders have other letters."""
    return {name: printable(value).encode("ascii", "backslashreplace").decode() for name, value in tags.items()}


def _metric(name: str) -> Any:
    key = ray.get_runtime_context().get_node_id(), name
    if key not in _known:
        kind, text = (metrics.Counter, COUNTERS[name]) if name in COUNTERS else (metrics.Gauge, GAUGES[name])
        _known[key] = kind(name, description=text, tag_keys=TAGS.get(name, BY_STAGE))
    return _known[key]
