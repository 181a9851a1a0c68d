"""Nothing that decides a result is missing from a fingerprint: no key that a stage reads, no entry that it uses."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_run
import torch
from changes import Changed, Log, changed, finished, others, recording, recording_recipe
from tiny_run import EVERY, GENERATED, LABEL, REAL, STAGES, TEACHER

from raydistill import registry
from raydistill.config import Config
from raydistill.errors import BadInput
from raydistill.methods.resolve import Variant, resolve
from raydistill.stages.evaluation import trainings
from raydistill.stages.evaluation.image_sets import SetRef
from raydistill.stages.evaluation.trainer import Job, StudentTrainer, Training
from raydistill.stages.runner import Stage
from raydistill.stages.work import StageWork
from raydistill.store.artifact import Artifact
from raydistill.store.location import Location

# Keys that a stage may read without its bytes depending on them: where things lie, and what they are computed on.
# Content has digests of its own, and who computes a unit changes nothing.
ELSEWHERE = {"actors", "num_cpus", "num_gpus", "device", "deadline_s", "memory_mb", "max_broken", "path", "kind"}
UPSTREAM = {(f"sample {REAL}", "sample.batch")}  # in the digest of what the stage consumes
TOP = {"ipc", "seed"}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Changed:
    return finished(tmp_path_factory.mktemp("fingerprints") / "run")


@pytest.mark.parametrize("name", EVERY)
def test_every_key_that_a_stage_reads_is_in_its_fingerprint(
    name: str, tiny: Changed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some other value of each gives another fingerprint. What is read to resolve a method is not read by a stage."""
    log = Log()
    told = changed(tiny, recording(tiny.config, log))
    vars(told)["recipe"] = tiny.recipe

    def quietly(config: Config) -> Variant:
        before = set(log.keys)
        resolved = resolve(config)
        log.keys = before
        return resolved

    with monkeypatch.context() as patched:
        patched.setattr(tiny_run, "resolve", quietly)
        stage = told.stage(name)
    assert stage.artifact.fingerprint == tiny.stage(name).artifact.fingerprint, "recording changes nothing"
    work = elsewhere(stage, tmp_path)
    work.open()(work.load(stage.items(stage.keys[0])))
    keys = {k for k in log.keys if ("." in k or k in TOP) and k.rpartition(".")[2] not in ELSEWHERE}
    read = {k for k in keys if (name, k) not in UPSTREAM}
    assert read or name.startswith(("group", "plan", "means", "check")), "the log was open"
    unseen = [key for key in sorted(read) if not told_apart(tiny, name, stage, key)]
    assert not unseen, f"{name} reads {unseen}, of which its fingerprint knows nothing"


@pytest.mark.parametrize("name", [TEACHER, LABEL])
def test_every_value_of_a_recipe_that_a_stage_reads_is_in_its_fingerprint(
    name: str, tiny: Changed, tmp_path: Path
) -> None:
    log, told = Log(), changed(tiny, tiny.config)

    def fingerprint(**more: Any) -> str:
        vars(told)["recipe"] = lambda: replace(tiny.recipe(), **more)
        return told.stage(name).artifact.fingerprint

    before = fingerprint()
    vars(told)["recipe"] = lambda: recording_recipe(tiny.recipe(), log)
    stage = told.stage(name)
    work = elsewhere(stage, tmp_path)
    work.open()(work.load(stage.items(stage.keys[0])))
    assert log.keys
    for key in log.keys:
        value = getattr(tiny.recipe(), key)
        assert fingerprint(**{key: not value if isinstance(value, bool) else value + 1}) != before, key


def test_no_work_of_a_stage_is_left_out_here(tiny: Changed) -> None:
    every = {kind for kind in StageWork.__subclasses__() if kind.__module__.startswith("raydistill.")}
    assert {type(tiny.stage(name).work) for name in EVERY} | {trainings.TrainingReads} == every


def told_apart(tiny: Changed, name: str, stage: Stage, key: str) -> bool:
    """Whether some other value of the key gives another fingerprint, or all are refused."""
    tried, same = 0, 0
    for other in others(tiny.config, key):
        tried += 1
        with contextlib.suppress(BadInput):  # a value that the method does not take
            same += changed(tiny, other).stage(name).artifact.fingerprint == stage.artifact.fingerprint
    assert tried, f"no other value of {key} was tried; add one to `values`"
    return same < tried


def elsewhere(stage: Stage, folder: Path) -> Any:
    """The work of a stage, with a place of its own to write to."""
    artifact = Artifact(Location.of(str(folder)), stage.artifact.stage, stage.artifact.fingerprint)
    return replace(stage.work, artifact=artifact)  # type: ignore[type-var]


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
        distilled = tiny.distilled(REAL)
        ref = SetRef(REAL, more.get("set_digest", distilled.digest), distilled.rows, distilled)
        return trainings.trainings(config, tiny.run, [ref], more.get("test", tiny.test))[0]

    def test_every_key_that_a_training_reads_is_in_its_fingerprint(self, tiny: Changed, tmp_path: Path) -> None:
        log, config = Log(), tiny.config
        told = recording(config, log)
        t = replace(self.training(tiny, told), artifact=Artifact(Location.of(str(tmp_path)), "evaluations", "0"))
        assert self.fingerprint(tiny, told) == self.fingerprint(tiny, config)
        location = Location.of(str(tmp_path))
        job = Job((t,), told.source, tiny.train, tiny.test, told.evaluate, location, location)
        StudentTrainer(job, torch.device("cpu"), "cpu").run(t)
        plural = {
            "evaluate.students",
            "evaluate.seeds",
            "seeds.generation",
            "evaluate.redundancy_parts",
            "evaluate.keep_weights",
        }
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
