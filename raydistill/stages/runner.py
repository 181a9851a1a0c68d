"""Runs one stage: what is committed is skipped, the rest is spread by an executor, the manifest is sealed last.

Nothing here knows Ray: an executor is any function that yields a record per key. `serial` runs in this process and is
what the tests of exact resume use; `dispatch` holds the executors on Ray.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from raydistill.config import Pool
from raydistill.progress import Progress, say
from raydistill.store.artifact import Artifact, Manifest, Record
from raydistill.store.sealed import Sealed


class Work(Protocol):
    """What a stage does with one unit. Picklable and cheap: it travels to every worker."""

    def load(self, item: Any) -> Any:
        """Item -> payload; reading and decoding. Runs in CPU tasks for streamed stages, before `open()`'s function."""
        ...

    def open(self) -> Callable[[Any], Record]:
        """Loads networks once per worker; the function returned computes and commits one payload."""
        ...


@dataclass(frozen=True)
class Stage:
    """`items(key)` is made in the driver; `units(record)` counts what a record finished, for progress."""

    name: str
    unit: str
    artifact: Artifact
    keys: Sequence[str]
    items: Callable[[str], Any]
    work: Work
    total: int
    style: Literal["stream", "tasks", "actors", "driver"]
    pool: Pool = field(default_factory=Pool)
    units: Callable[[Record], int] = lambda record: record.rows
    summarise: Callable[[list[Record]], dict[str, Any]] = lambda records: {}
    numbers: Callable[[list[Record]], dict[str, Any]] = lambda records: {}  # for people: no part of the digest
    inspect: Callable[[list[Record]], None] = lambda records: None  # raises StageFailed before the manifest is sealed


@dataclass(frozen=True)
class Outcome:
    sealed: Sealed
    seconds: float  # spent in this run
    reused: bool  # True if nothing had to be computed
    computed: int  # units finished in this run

    @property
    def manifest(self) -> Manifest:
        return self.sealed.manifest


Execute = Callable[[Stage, Sequence[str]], Iterator[Record]]


def run(stage: Stage, execute: Execute, label: str = "") -> Outcome:
    """Brings a stage to its manifest. Safe to repeat after any interruption. `label` is shown with the progress."""
    sealed = Sealed.finished(stage.artifact)
    if sealed is not None:
        say(label or stage.name, f"finished before: {stage.total} {stage.unit}")
        return Outcome(sealed, 0.0, True, 0)
    start = time.monotonic()
    committed = stage.artifact.records()
    records = {k: committed[k] for k in stage.keys if k in committed}
    todo = [k for k in stage.keys if k not in records]
    before = sum(map(stage.units, records.values()))
    with Progress(label or stage.name, stage.unit, stage.total, before) as progress:
        for record in execute(stage, todo) if todo else ():
            if record.key not in records:
                records[record.key] = record
                progress.advance(stage.units(record))
        done = [records[k] for k in stage.keys if k in records]
        stage.inspect(done)
        manifest = stage.artifact.seal(stage.keys, stage.summarise(done), stage.numbers(done))
    return Outcome(Sealed(stage.artifact, manifest), time.monotonic() - start, False, progress.done)


def serial(stage: Stage, todo: Sequence[str]) -> Iterator[Record]:
    """Runs every unit in this process, in order."""
    finish = stage.work.open()
    for key in todo:
        yield finish(stage.work.load(stage.items(key)))
