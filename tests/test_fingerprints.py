"""Nothing that decides a result is missing from a fingerprint: no key that a stage reads, no entry that it uses."""

from __future__ import annotations

import contextlib
import typing
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_run
import torch
from pydantic import BaseModel, ValidationError
from tiny_run import GENERATED, REAL, STAGES, TinyRun

from raydistill import registry
from raydistill.config import Config
from raydistill.errors import BadInput
from raydistill.methods.resolve import Variant, resolve
from raydistill.stages.evaluation import trainings
from raydistill.stages.evaluation.image_sets import SetRef
from raydistill.stages.evaluation.trainer import Job, Trainer, Training
from raydistill.stages.runner import Stage
from raydistill.store.artifact import Artifact, Manifest
from raydistill.store.location import Location

# Keys that a stage may read without its bytes depending on them: where things lie, and what they are computed on.
# Content has digests of its own, and who computes a unit changes nothing.
ELSEWHERE = {"actors", "num_cpus", "num_gpus", "device", "deadline_s", "memory_mb", "max_broken", "path", "kind"}
UPSTREAM = {(f"sample {REAL}", "sample.batch")}  # in the digest of what the stage consumes


class Log:
    """Which keys were read while it is open."""

    def __init__(self) -> None:
        self.keys: set[str] = set()


def recording(section: BaseModel, log: Log, prefix: str = "") -> Any:
    """The same section, and all below it, telling the log of every field that is read of them."""
    kind = type(section)

    def read(self: BaseModel, name: str) -> Any:
        if name in kind.model_fields:
            log.keys.add(prefix + name)
        return kind.__getattribute__(self, name)

    told = type(kind.__name__, (kind,), {"__getattribute__": read, "__module__": kind.__module__})
    values = {
        name: recording(value, log, f"{prefix}{name}.") if isinstance(value, BaseModel) else value
        for name, value in section.__dict__.items()
    }
    return told.model_construct(**values)


def others(config: Config, key: str) -> Iterator[Config]:
    """Configurations that differ in one key alone, if there are valid ones."""
    *path, name = key.split(".")
    sections: list[Any] = [config]
    for part in path:
        sections.append(getattr(sections[-1], part))
    value = getattr(sections[-1], name)
    for choice in values(type(sections[-1]).model_fields[name].annotation, value):
        try:
            below: Any = type(sections[-1]).model_validate(sections[-1].model_dump() | {name: choice})
        except ValidationError:
            continue
        for part, above in zip(reversed(path), reversed(sections[:-1]), strict=True):
            below = above.model_copy(update={part: below})
        yield below


def values(annotation: Any, value: Any) -> list[Any]:
    """Values that a field of this type might have besides the one that it has."""
    parts = [typing.get_args(annotation)] + [typing.get_args(a) for a in typing.get_args(annotation)]
    chosen: list[Any] = [
        c for args in parts for c in args if isinstance(c, str | int | float) and not isinstance(c, type)
    ]
    if isinstance(value, bool):
        chosen.append(not value)
    elif isinstance(value, int | float):
        chosen += [value + 1, value - 1, value * 2, value / 2, type(value)(1), 0.25]
    elif isinstance(value, list):
        chosen += [value[:1]]
    elif isinstance(value, str):
        chosen += ["ddim"]  # of the keys that a stage reads, only the sampler's name is free text
    elif value is None:
        chosen += [2, 0.5, "ddim"]
    return [c for c in chosen if c != value]


class Changed(TinyRun):
    """A run whose configuration may be another's, over what is upstream in the first."""

    held: dict[str, tuple[Artifact, Manifest]]

    def sealed(self, name: str) -> tuple[Artifact, Manifest]:
        return self.held[name]


def changed(tiny: TinyRun, config: Config) -> Changed:
    other = Changed.__new__(Changed)
    other.__dict__ |= tiny.__dict__ | {"config": config}
    return other


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Changed:
    run = TinyRun(tmp_path_factory.mktemp("fingerprints") / "run")
    run.finish()
    made = changed(run, run.config)
    made.held = {name: run.sealed(name) for name in STAGES}
    return made


@pytest.mark.parametrize("name", STAGES)
def test_every_key_that_a_stage_reads_is_in_its_fingerprint(
    name: str, tiny: Changed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some other value of each gives another fingerprint. What is read to resolve a method is not read by a stage."""
    log = Log()
    told = changed(tiny, recording(tiny.config, log))

    def quietly(config: Config) -> Variant:
        before = set(log.keys)
        resolved = resolve(config)
        log.keys = before
        return resolved

    with monkeypatch.context() as patched:
        patched.setattr(tiny_run, "resolve", quietly)
        made = told.stage(name)
    assert made.artifact.fingerprint == tiny.stage(name).artifact.fingerprint, "recording changes nothing"
    work = elsewhere(made, tmp_path)
    work.open()(work.load(made.items(made.keys[0])))
    read = {k for k in log.keys if "." in k and k.rpartition(".")[2] not in ELSEWHERE and (name, k) not in UPSTREAM}
    assert read or name.startswith(("group", "plan", "means", "check")), "the log was open"
    unseen = [key for key in sorted(read) if not told_apart(tiny, name, made, key)]
    assert not unseen, f"{name} reads {unseen}, of which its fingerprint knows nothing"


def told_apart(tiny: Changed, name: str, made: Stage, key: str) -> bool:
    """Whether some other value of the key gives another fingerprint, or all are refused."""
    tried, same = 0, 0
    for other in others(tiny.config, key):
        tried += 1
        with contextlib.suppress(BadInput):  # a value that the method does not take
            same += changed(tiny, other).stage(name).artifact.fingerprint == made.artifact.fingerprint
    assert tried, f"no other value of {key} was tried; add one to `values`"
    return same < tried


def elsewhere(made: Stage, folder: Path) -> Any:
    """The work of a stage, with a place of its own to write to."""
    place = Artifact(Location.of(str(folder)), made.artifact.stage, made.artifact.fingerprint)
    return replace(made.work, artifact=place)  # type: ignore[type-var]


@pytest.mark.parametrize("name", [n for n in STAGES if n.partition(" ")[0] in ("plan", "sample", "measure")])
def test_another_version_of_an_entry_is_another_artifact(
    name: str, tiny: Changed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the entries that the stage used, and of no others."""
    before = tiny.stage(name).artifact.fingerprint
    used = {
        "plan": {("method", name.partition(" ")[2])},
        "sample": {("guidance", "mode"), ("sampler", "ddpm")} if GENERATED in name else set(),
        "measure": {("metric", "l2"), ("metric", "wasserstein"), ("student", "convnet")},  # whose features are compared
    }[name.partition(" ")[0]]
    for kind in ("method", "guidance", "sampler", "metric", "student"):
        for entry in registry.names(kind):
            with monkeypatch.context() as patched:
                patched.setattr(registry.get(kind, entry), "version", 2, raising=False)
                changed_now = tiny.stage(name).artifact.fingerprint != before
            heirs = {n for n in registry.names(kind) if issubclass_of(kind, n, entry)}
            expected = any((kind, n) in used for n in heirs)
            assert changed_now == expected, f"{name} and version 2 of {kind} {entry}"


def issubclass_of(kind: str, name: str, of: str) -> bool:
    """A version is inherited like everything else."""
    return issubclass(registry.get(kind, name), registry.get(kind, of))


class TestTrainings:
    """Trainings are no stage of their own, but are committed like one."""

    def fingerprint(self, tiny: Changed, config: Config, **more: Any) -> str:
        return self.training(tiny, config, **more).artifact.fingerprint

    def training(self, tiny: Changed, config: Config, **more: Any) -> Training:
        made, manifest = tiny.sealed(f"sample {REAL}")
        ref = SetRef(REAL, more.get("set_digest", manifest.digest), manifest.rows, made, manifest)
        return trainings.trainings(config, tiny.run, [ref], more.get("test", tiny.test))[0]

    def test_every_key_that_a_training_reads_is_in_its_fingerprint(self, tiny: Changed, tmp_path: Path) -> None:
        log, config = Log(), tiny.config
        told = recording(config, log)
        t = replace(self.training(tiny, told), artifact=Artifact(Location.of(str(tmp_path)), "evaluations", "0"))
        assert self.fingerprint(tiny, told) == self.fingerprint(tiny, config)
        place = Location.of(str(tmp_path))
        job = Job((t,), told.source, tiny.train, tiny.test, told.evaluate, place, place)
        Trainer(job, torch.device("cpu"), "cpu").run(t)
        plural = {"evaluate.students", "evaluate.seeds", "evaluate.increments", "evaluate.keep_weights"}
        read = {k for k in log.keys if "." in k and k.rpartition(".")[2] not in ELSEWHERE} - plural
        assert {"evaluate.width", "source.image_size", "evaluate.dtype"} <= read
        for key in sorted(k for k in read if not k.startswith("evaluate.protocol")):  # the recipe is in it whole
            prints = set()
            for other in others(config, key):
                with contextlib.suppress(BadInput):
                    prints.add(self.fingerprint(tiny, other))
            assert prints - {self.fingerprint(tiny, config)}, f"a training reads {key}"

    def test_the_test_images_and_the_set_are_in_it(self, tiny: Changed) -> None:
        mine = self.fingerprint(tiny, tiny.config)
        assert self.fingerprint(tiny, tiny.config, test=tiny_run.few(tiny.test, 11)) != mine
        assert self.fingerprint(tiny, tiny.config, set_digest="0") != mine

    @pytest.mark.parametrize(("kind", "name"), [("student", "convnet"), ("protocol", "hard")])
    def test_another_version_is_another_training(
        self, kind: str, name: str, tiny: Changed, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = self.fingerprint(tiny, tiny.config)
        monkeypatch.setattr(registry.get(kind, name), "version", 2, raising=False)
        assert self.fingerprint(tiny, tiny.config) != before
