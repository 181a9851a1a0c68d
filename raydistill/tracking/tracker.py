"""A tracked run, as a job sees it: parameters, numbers, files and how it ended, of itself and of its children.

    with tracking(destination, root) as sweep:
        with sweep.run(key, "name") as parent:
            with sweep.run(other, "trial", parent=parent) as child:
                child.params({"guidance.scale": 0.1})

Entries go to the journal first, and from there to MLflow in the background. Nothing of it can stop a job.
"""

from __future__ import annotations

import math
import re
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from raydistill import signals
from raydistill.errors import StageFailed, one_line
from raydistill.identity import canonical
from raydistill.progress import Event, Finished, Measured, Retried, Started, listening, say
from raydistill.redact import redact
from raydistill.store.location import Location
from raydistill.tracking import origin, uploader
from raydistill.tracking.destination import Destination
from raydistill.tracking.journal import FOLDER, Entry, Journal, now
from raydistill.tracking.system import MachineWatch
from raydistill.tracking.uploader import Uploader

SYSTEM = "system/cpu_utilization_percentage"
LONGEST_PARAM, LONGEST_KEY = 500, 250  # characters; what is cut of a parameter is whole in config.yaml
LONGEST_DIGEST = 36
LAST_WORD_S = 1.5  # for the state of a run that a signal ends (signals.FAREWELL_S)
_NAME = re.compile(r"[^\w\-./: ]")


@dataclass(frozen=True)
class DataSet:
    """What a run reads or makes: `context` says what for; `about` holds numbers of it."""

    name: str
    digest: str
    where: str
    context: str
    about: Mapping[str, object]


class Tracker:
    """One run. Its methods may be called by several threads, and again with what was said before."""

    def __init__(self, journal: Journal, uploader: Uploader, name: str) -> None:
        self.journal, self._uploader = journal, uploader
        self._lock, self._ended = threading.Lock(), False
        known = journal.known
        self._said: dict[tuple[str, int], float] = {}
        for e in known:
            if e["kind"] == "metrics":
                self._said |= {(key, e["step"]): value for key, value in e["values"].items()}
        self._before: dict[str, int] = {}
        self._retries: Counter[str] = Counter()
        self._fault = ""  # why the last record could not be kept, "" if it is
        self._last_end = next((e["time"] for e in reversed(known) if e["kind"] == "end"), None)
        uploader.put(journal, *known)
        where = uploader.server.destination
        card = {"id": journal.card.id, "parent": journal.card.parent}
        self._say("begin", name=redact(name), uri=where.uri, experiment=where.experiment, **card)

    def params(self, values: Mapping[str, object]) -> None:
        """Each once: what MLflow has already stays."""
        self._say("params", values={_key(k): _shortened(k, v) for k, v in values.items()})

    def tags(self, values: Mapping[str, str]) -> None:
        self._say("tags", values={_key(k): redact(v) for k, v in values.items()})

    def metrics(self, values: Mapping[str, float | None], step: int = 0) -> None:
        """Those that are finite, and another than was said of this step before."""
        new = {_key(k): float(v) for k, v in values.items() if v is not None and math.isfinite(v)}
        new = {k: v for k, v in new.items() if self._said.get((k, step)) != v}
        if new:
            self._said |= {(k, step): v for k, v in new.items()}
            self._say("metrics", step=step, values=new)

    def file(self, name: str, folder: str = "") -> None:
        """A file of the run directory, by its path in it. It is read when it is uploaded."""
        self._say("files", values={name: folder})

    def dataset(self, data: DataSet) -> None:
        kind = data.where.partition("://")[0] if "://" in data.where else "local"
        self._say(
            "dataset",
            name=redact(data.name),
            digest=data.digest[:LONGEST_DIGEST],
            source_type=kind,
            source=canonical({"uri": redact(data.where)}),
            context=data.context,
            profile=canonical(dict(data.about)),
        )

    def event(self, event: Event) -> None:
        """What stages took, by the units that are finished by then; and what they measure on the way."""
        match event:
            case Started():
                self._before[event.stage] = event.before
            case Finished() if event.units:
                units = self._before.get(event.stage, 0) + event.units
                name = event.stage.replace(" ", "_")
                self.metrics({f"stage_seconds/{name}": round(event.seconds, 3)}, units)
            case Retried():
                self._retries[event.stage] += 1
                tried = self._retries[event.stage]
                self.metrics({f"retries/{event.stage.replace(' ', '_')}": tried}, tried)
            case Measured():
                self.metrics({f"{event.stage}/{k}": v for k, v in event.values.items()}, event.step)

    def end(self, status: str, why: str = "", changed: bool = True) -> None:
        """The first end counts. One that `changed` nothing ended when the run before did."""
        with self._lock:
            if self._ended:
                return
            self._ended = True
        if why:
            self.tags({"raydistill.error": one_line(why)})
        self._say("end", status=status, time=now() if changed or self._last_end is None else self._last_end)

    def _say(self, kind: str, **body: object) -> None:
        entry: Entry = {"time": now(), **body, "kind": kind}
        try:
            self.journal.append(entry)
            self._fault = ""
        except StageFailed as e:  # a full disk: the run itself says it where it matters
            fault, self._fault = self._fault, one_line(e)
            if not fault:
                say("tracking", f"a record could not be kept: {self._fault}")
        self._uploader.put(self.journal, entry)


class Tracking:
    """The tracked runs of a program in one run directory."""

    def __init__(self, destination: Destination, root: Location) -> None:
        self.destination, self.root, self.uploader = destination, root, Uploader(destination)

    @contextmanager
    def run(self, key: str, name: str, parent: Tracker | None = None) -> Iterator[Tracker]:
        """A run that begins and ends with the block, by what it raises; `key` is a fingerprint of what is run."""
        journal = Journal(self.root, key, parent.journal.card.id if parent else "")
        tracker = Tracker(journal, self.uploader, name)
        tracker.tags(origin.tags())
        try:
            yield tracker
        except (KeyboardInterrupt, SystemExit):
            tracker.end("KILLED")
            raise
        except BaseException as e:  # whatever ended it, its state is true; it goes on from here
            tracker.end("FAILED", str(e) or type(e).__name__)
            raise
        tracker.end("FINISHED")

    @contextmanager
    def watching(self, tracker: Tracker) -> Iterator[None]:
        """The events of this thread, the machine, and a signal that ends the program are told of this run."""
        sampled = sum(SYSTEM in e.get("values", ()) for e in tracker.journal.known if e["kind"] == "metrics")

        def last_word() -> None:
            tracker.end("KILLED")
            self.uploader.settle(LAST_WORD_S)

        with signals.farewell(last_word), listening(tracker.event), MachineWatch(tracker.metrics, sampled):
            yield


@contextmanager
def tracking(destination: Destination, root: Location) -> Iterator[Tracking]:
    """Says where it goes and how to look; at the end, what has not come there and how it will."""
    import mlflow.tracking  # noqa: F401  # here, before threads ask for it

    say("tracking", f"in {destination.uri}, experiment {destination.experiment}; look: {destination.viewer}")
    runs = Tracking(destination, root)
    try:
        yield runs
    finally:
        why = runs.uploader.settle(uploader.LAST_S)
        runs.uploader.close()
        if why:
            say(
                "tracking",
                f"not everything is in {destination.uri} ({why}); it is kept in {root / FOLDER}: "
                f"raydistill track {root} brings it there",
            )


def _key(name: str) -> str:
    return _NAME.sub("_", name)[:LONGEST_KEY]


def _shortened(key: str, value: object) -> str:
    text = redact(value if isinstance(value, str) else canonical(value))
    note = f"... (whole in config.yaml: {key})"
    return text if len(text) <= LONGEST_PARAM else text[: LONGEST_PARAM - len(note)] + note
