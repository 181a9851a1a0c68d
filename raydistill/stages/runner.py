"""Runs one stage: what is committed is skipped, the rest is spread by an executor, the manifest is sealed last.

Nothing here knows Ray: an executor is any function that yields a record per key. `serial` runs in this process and is
what the tests of exact resume use; `distributed/executors.py` holds those on Ray.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from raydistill.config import Pool
from raydistill.errors import RaydistillError
from raydistill.progress import Committed, Progress, Skipped, noun, say, tell
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
    inspect: Callable[[list[Record]], None] = lambda records: None  # raises StageFailed; of a finished stage, too


@dataclass(frozen=True)
class Outcome:
    sealed: Sealed
    reused: bool  # True if nothing had to be computed
    computed: int  # units finished in this run

    @property
    def manifest(self) -> Manifest:
        return self.sealed.manifest


Execute = Callable[[Stage, Sequence[str]], Iterator[Record]]
Together = Callable[[Sequence[tuple[Stage, Sequence[str]]]], Iterator[tuple[Stage, Record | RaydistillError]]]


def run(stage: Stage, execute: Execute, label: str = "") -> Outcome:
    """Brings a stage to its manifest. Safe to repeat after any interruption. `label` is shown with the progress."""
    sealed = Sealed.finished(stage.artifact)
    if sealed is not None:
        stage.inspect(list(sealed.records))  # by the limits of this run: the stage may be another's
        say(label or stage.name, f"finished before: {stage.total} {noun(stage.total, stage.unit)}")
        tell(Skipped(label or stage.name))
        return Outcome(sealed, True, 0)
    records, todo = committed(stage)
    before = sum(map(stage.units, records.values()))
    with Progress(label or stage.name, stage.unit, stage.total, before) as progress:
        for record in execute(stage, todo) if todo else ():
            if record.key not in records:
                records[record.key] = record
                _advance(progress, stage, record)
        sealed = seal(stage, records)
    return Outcome(sealed, False, progress.done)


def run_together(stages: Sequence[Stage], execute: Together) -> list[Sealed | RaydistillError]:
    """Brings stages of one kind to their manifests, in their order; one that fails ends nothing but itself."""
    ended: dict[int, Sealed | RaydistillError] = {}
    records: dict[int, dict[str, Record]] = {}
    requested: list[tuple[Stage, list[str]]] = []
    for i, stage in enumerate(stages):
        sealed = Sealed.finished(stage.artifact)
        if sealed is not None:
            ended[i] = _inspected(stage, sealed)
            continue
        records[i], todo = committed(stage)
        requested.append((stage, todo))
    at = {id(stage): i for i, stage in enumerate(stages)}
    total = sum(stages[i].total for i in records)
    before = sum(stages[i].units(r) for i, known in records.items() for r in known.values())
    if not requested:
        return list(ended.values())
    name = f"{stages[0].name} sets"  # whatever their number: what it cost is kept by name
    with Progress(name, stages[0].unit, total, before) as progress:
        for stage, result in execute([(s, todo) for s, todo in requested if todo]):
            i = at[id(stage)]
            if isinstance(result, RaydistillError):
                ended[i] = result
            elif result.key not in records[i]:
                records[i][result.key] = result
                _advance(progress, stage, result)
        for i in records:
            if i not in ended:
                ended[i] = _sealed(stages[i], records[i])
    return [ended[i] for i in range(len(stages))]


def _advance(progress: Progress, stage: Stage, record: Record) -> None:
    tell(Committed(progress.stage, record.key, stage.units(record), record.bytes))
    progress.advance(stage.units(record))


def committed(stage: Stage) -> tuple[dict[str, Record], list[str]]:
    """What is committed of a stage, and the keys that are left."""
    every = stage.artifact.records()
    records = {k: every[k] for k in stage.keys if k in every}
    return records, [k for k in stage.keys if k not in records]


def seal(stage: Stage, records: Mapping[str, Record]) -> Sealed:
    """Raises StageFailed for a key that is missing, and what the stage's own look at its records raises."""
    done = [records[k] for k in stage.keys if k in records]
    stage.inspect(done)
    manifest = stage.artifact.seal(stage.keys, stage.summarise(done), stage.numbers(done), done)
    return Sealed(stage.artifact, manifest)


def _sealed(stage: Stage, records: Mapping[str, Record]) -> Sealed | RaydistillError:
    try:
        return seal(stage, records)
    except RaydistillError as e:
        return e


def _inspected(stage: Stage, sealed: Sealed) -> Sealed | RaydistillError:
    try:
        stage.inspect(list(sealed.records))
    except RaydistillError as e:
        return e
    return sealed


def one_by_one(execute: Execute) -> Together:
    """The stages one after the other, by an executor of one."""

    def together(requested: Sequence[tuple[Stage, Sequence[str]]]) -> Iterator[tuple[Stage, Record | RaydistillError]]:
        for stage, todo in requested:
            try:
                for record in execute(stage, todo):
                    yield stage, record
            except RaydistillError as e:
                yield stage, e

    return together


def serial(stage: Stage, todo: Sequence[str]) -> Iterator[Record]:
    """Runs every unit in this process, in order."""
    finish = stage.work.open()
    for key in todo:
        yield finish(stage.work.load(stage.items(key)))
