"""Stages killed at every point of a write: run again they end where an undisturbed run ends, and redo nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_run import GENERATED, STAGES, UPSTREAM, TinyRun, backwards, config, watched

from raydistill.config import SourceConfig
from raydistill.distributed import students
from raydistill.errors import CorruptArtifact, StageFailed
from raydistill.evaluation.images import ImageSet
from raydistill.evaluation.train import Student
from raydistill.models.vae import VaeSpec
from raydistill.sources.base import open_splits
from raydistill.stages import runner
from raydistill.stages.evaluation import image_sets, trainer
from raydistill.stages.latents import encode, group
from raydistill.stages.runner import Stage, serial
from raydistill.store import faults
from raydistill.store.artifact import Artifact, Manifest, Record
from raydistill.store.rundir import RunDir

WRITES = ("before_write", "before_commit", "after_commit")
SEALS = ("before_manifest", "after_manifest")


class Death(BaseException):
    """Stands for SIGKILL: nothing that handles exceptions handles it."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Manifest]]:
    """An undisturbed run, and its manifests. Never written to again."""
    root = tmp_path_factory.mktemp("finished") / "run"
    return root, TinyRun(root).finish()


@pytest.fixture
def at_stage(finished: tuple[Path, dict[str, Manifest]], tmp_path: Path) -> Callable[[str], Stage]:
    """at_stage(name): a fresh run directory that is finished up to a stage, which is returned."""

    def fresh(name: str) -> Stage:
        shutil.copytree(finished[0], tmp_path / "run")
        stage = TinyRun(tmp_path / "run").stage(name)
        shutil.rmtree(stage.artifact.location.uri)
        return stage

    return fresh


@pytest.fixture
def die(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """die(point, key) stops the process the next time that it reaches the point."""

    def arm(point: str, key: str) -> None:
        def hook(stage: str, here: str, now: str) -> None:
            if (here, now) == (point, key):
                monkeypatch.setattr(faults, "hook", None)
                raise Death

        monkeypatch.setattr(faults, "hook", hook)

    return arm


def files(artifact: Artifact) -> dict[str, tuple[int, int, bytes]]:
    """Every file of an artifact with its inode, modification time and content."""
    root = Path(artifact.location.uri)
    return {
        str(p.relative_to(root)): (p.stat().st_ino, p.stat().st_mtime_ns, p.read_bytes())
        for p in sorted(root.rglob("*"))
        if p.is_file()
    }


def owned(artifact: Artifact, keys: set[str]) -> dict[str, tuple[int, int, bytes]]:
    """The files that belong to the commits of these keys."""
    data = {r.file for r in artifact.records().values() if r.key in keys}
    return {
        name: seen
        for name, seen in files(artifact).items()
        if name in data or (name.startswith("commits/") and name.removeprefix("commits/").rpartition("~")[0] in keys)
    }


def commit_file(artifact: Artifact, key: str) -> Path:
    (file,) = Path(artifact.location.uri, "commits").glob(f"{key}~*.json")
    return file


@pytest.mark.parametrize("name", STAGES)
class TestEveryStage:
    @pytest.mark.parametrize("which", [0, -1], ids=["first", "last"])
    @pytest.mark.parametrize("point", WRITES)
    def test_killed_at_a_write_it_resumes_where_it_was(self, name, point, which, finished, at_stage, die) -> None:
        stage = at_stage(name)
        die(point, stage.keys[which])
        with pytest.raises(Death):
            runner.run(stage, serial)
        committed = set(stage.artifact.records())
        before = owned(stage.artifact, committed)
        reached = len(stage.keys) if which else 1
        assert committed == set(stage.keys[: reached - (point != "after_commit")])

        outcome, calls = watched(stage)
        assert outcome.manifest == finished[1][name] and not outcome.reused
        assert calls.loaded == calls.finished == [k for k in stage.keys if k not in committed]
        assert owned(stage.artifact, committed) == before, "what was committed has been written again"
        stage.artifact.verify(outcome.manifest.records)

    @pytest.mark.parametrize("point", SEALS)
    def test_killed_at_the_manifest_it_computes_nothing_again(self, name, point, finished, at_stage, die) -> None:
        stage = at_stage(name)
        die(point, "manifest")
        with pytest.raises(Death):
            runner.run(stage, serial)
        before = files(stage.artifact)
        assert ("manifest.json" in before) == (point == "after_manifest")

        outcome, calls = watched(stage)
        assert outcome.manifest == finished[1][name]
        assert calls.opened == 0 and calls.loaded == [], "networks were loaded or units read for nothing"
        assert outcome.reused == (point == "after_manifest")
        after = files(stage.artifact)
        assert {k: after[k] for k in before} == before

    def test_finished_it_calls_no_worker_and_touches_no_file(self, name, finished, at_stage) -> None:
        stage = at_stage(name)
        runner.run(stage, serial)
        before = files(stage.artifact)
        outcome, calls = watched(stage)
        assert outcome.reused and outcome.computed == 0 and calls.opened == 0
        assert outcome.manifest == finished[1][name] and files(stage.artifact) == before

    def test_lost_commits_are_computed_again_and_no_others(self, name, finished, at_stage) -> None:
        stage = at_stage(name)
        runner.run(stage, serial)
        lost = list(stage.keys[::2])
        for key in lost:
            commit_file(stage.artifact, key).unlink()
        Path(stage.artifact.location.uri, "manifest.json").unlink()
        kept = set(stage.keys) - set(lost)
        before = owned(stage.artifact, kept)
        outcome, calls = watched(stage)
        assert calls.loaded == lost and outcome.manifest == finished[1][name]
        assert owned(stage.artifact, kept) == before

    def test_torn_records_and_stray_files_count_for_nothing(self, name, finished, at_stage) -> None:
        stage = at_stage(name)
        runner.run(stage, serial)
        root, key = Path(stage.artifact.location.uri), stage.keys[0]
        for damaged in (commit_file(stage.artifact, key), root / "manifest.json"):
            damaged.write_bytes(damaged.read_bytes()[:-20])
        (root / "data" / f"{key}-0123456789abcdef.parquet").write_bytes(b"half a sh")
        (root / "commits" / "notes.txt").write_text("not ours")
        outcome, calls = watched(stage)
        assert calls.loaded == [key] and outcome.manifest == finished[1][name]
        stage.artifact.verify(outcome.manifest.records)

    def test_the_order_of_execution_leaves_no_trace(self, name, finished, at_stage) -> None:
        stage = at_stage(name)
        outcome, calls = watched(stage, backwards)
        assert calls.loaded == list(stage.keys)[::-1] and outcome.manifest == finished[1][name]

    def test_a_key_that_comes_twice_counts_once(self, name, finished, at_stage) -> None:
        """Ray may run a restarted task a second time."""
        stage = at_stage(name)

        def twice(stage: Stage, todo) -> object:
            yield from serial(stage, [k for key in todo for k in (key, key)])

        outcome, _ = watched(stage, twice)
        assert outcome.manifest == finished[1][name]
        assert outcome.computed == sum(map(stage.units, outcome.manifest.records))


@pytest.mark.parametrize(("name", "upstream"), [(n, u) for n in STAGES for u in UPSTREAM[n]])
class TestDamageUpstream:
    @pytest.mark.parametrize("damage", ["flipped", "truncated", "missing"])
    def test_is_named_before_anything_is_computed_from_it(self, name, upstream, damage, at_stage, tmp_path) -> None:
        stage = at_stage(name)
        keys = set(stage.keys)  # those of a plan are read from it
        tiny = TinyRun(tmp_path / "run")
        source = tiny.sealed(upstream)
        record = source.records[-1]
        spoil(source.artifact, record, damage)
        with pytest.raises(CorruptArtifact) as caught:
            runner.run(tiny.stage(name), serial)
        said = str(caught.value)
        assert record.file in said and f"key {record.key}" in said and source.artifact.location.uri in said
        assert "run the same command again" in said and "\n" not in said
        made_from_it = {
            "group": {f"bucket-{b:03d}" for b in record.meta.get("buckets", ())},
            "cluster": {record.key},
            "embed": {record.key},
            "means": {record.key},
        }.get(name, keys)
        assert made_from_it and not made_from_it & set(stage.artifact.records())

    def test_the_remedy_that_is_named_works(self, name, upstream, finished, at_stage, tmp_path) -> None:
        at_stage(name)
        tiny = TinyRun(tmp_path / "run")
        source = tiny.sealed(upstream)
        spoil(source.artifact, source.records[0], "flipped")
        shutil.rmtree(source.artifact.location.uri)
        assert tiny.finish([upstream, name]) == {n: finished[1][n] for n in (upstream, name)}


def spoil(artifact: Artifact, record: Record, damage: str) -> None:
    """Damages the committed file of a record behind the store's back."""
    path = Path(artifact.location.uri, record.file)
    data = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(data[:-1])
    else:
        data[len(data) // 3] ^= 1
        path.write_bytes(data)


def test_every_shard_is_checked_by_every_process_once(finished, at_stage, monkeypatch) -> None:
    """Buckets share shards: each is read whole at the first visit only."""
    read: list[str] = []
    whole = Artifact.read
    monkeypatch.setattr(Artifact, "read", lambda self, r: (read.append(r.key), whole(self, r))[1])
    stage = at_stage("group")
    outcome = runner.run(stage, serial)
    shards = [r.key for r in finished[1]["encode"].records]
    assert len(stage.keys) > 1 and sorted(read) == sorted(shards)
    assert outcome.manifest == finished[1]["group"]


class TestEvaluate:
    """Trainings are committed one by one; a fit is given what is left. Here the fit is one process, without Ray."""

    @pytest.fixture
    def trained(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """The trainings that were really carried out."""
        done: list[str] = []

        def fit(job: trainer.Job, *_: object) -> None:
            worker = trainer.StudentTrainer(job, torch.device("cpu"), "cpu")
            for t in job.trainings:
                worker.run(t)

        def train_student(student: Student, recipe: object, train: ImageSet, *rest: object) -> object:
            done.append(f"{student.name}/seed{student.seed}/{len(train)}")
            return real(student, recipe, train, *rest)

        real = trainer.train_student
        monkeypatch.setattr(students, "fit", fit)
        monkeypatch.setattr(trainer, "train_student", train_student)
        return done

    @pytest.fixture
    def tiny(self, finished: tuple[Path, dict[str, Manifest]], tmp_path: Path) -> TinyRun:
        shutil.copytree(finished[0], tmp_path / "run")
        return TinyRun(tmp_path / "run")

    @staticmethod
    def go(tiny: TinyRun) -> dict[str, str]:
        """Label of each training with the digest of its manifest."""
        sets = [
            image_sets.SetRef.of(GENERATED, tiny.distilled(GENERATED)),
            image_sets.SetRef("full data", tiny.train.digest, len(tiny.train), None),
        ]
        trainings, _ = students.evaluate(tiny.config, tiny.run, sets, tiny.train, tiny.test)
        sealed = {t.label: t.artifact.manifest() for t in trainings}
        assert all(trainer.score(t) is not None for t in trainings)
        return {label: manifest.digest for label, manifest in sealed.items() if manifest is not None}

    @pytest.mark.parametrize("point", [*WRITES, *SEALS])
    def test_killed_it_resumes_and_trains_only_what_is_left(self, point, tiny, trained, die, tmp_path) -> None:
        undisturbed = self.go(tiny)
        assert len(undisturbed) == len(trained) == 4
        everything = list(trained)
        shutil.rmtree(tmp_path / "run" / "evaluations")
        trained.clear()
        die(point, "manifest" if point in SEALS else "training")
        with pytest.raises(Death):
            self.go(tiny)
        first_stands = point not in ("before_write", "before_commit")
        trained.clear()
        assert self.go(tiny) == undisturbed
        assert trained == ([] if point in SEALS else everything[first_stands:])
        trained.clear()
        assert self.go(tiny) == undisturbed and trained == []

    def test_in_bfloat16_it_is_another_training_and_says_so(self, tiny, trained) -> None:
        full = self.go(tiny)
        trained.clear()
        half = tiny.config.evaluate.model_copy(update={"dtype": "bfloat16"})
        tiny.config = tiny.config.model_copy(update={"evaluate": half})
        again = self.go(tiny)
        assert len(trained) == len(full) == len(again) and not set(full.values()) & set(again.values())
        written = Path(tiny.root).glob("evaluations/*/data/*")
        names = [json.loads(p.read_text())["protocol_name"] for p in written]
        assert sum(n.endswith(" in bfloat16") for n in names) == len(full) == len(names) / 2

    def test_damaged_images_are_named_before_a_training(self, tiny, trained) -> None:
        sealed = tiny.sealed(f"sample {GENERATED}")
        spoil(sealed.artifact, sealed.records[0], "flipped")
        with pytest.raises(CorruptArtifact, match=sealed.records[0].file):
            self.go(tiny)
        assert trained == []

    def test_a_split_without_a_usable_image_is_told(self, tiny_folder: Path) -> None:
        source = SourceConfig(kind="imagefolder", path=str(tiny_folder), image_size=32)
        splits = open_splits(source)
        *rest, last = sorted((tiny_folder / "val").rglob("*.png"))
        for path in rest:
            path.write_bytes(b"not an image")
        assert len(image_sets.real_images(source, splits.test, 8).images) == 1, "what can be used is used"
        last.write_bytes(b"not an image")
        with pytest.raises(StageFailed, match="none of the 6 images of split 'val' can be used"):
            image_sets.real_images(source, splits.test, 8)


@pytest.mark.parametrize("name", [n for n in STAGES if n.startswith("plan")])
def test_the_plan_fixes_which_slots_share_a_batch(name: str, finished: tuple[Path, dict[str, Manifest]]) -> None:
    """Slot by slot through the classes, four to a batch: a batch mixes classes, whoever computes it."""
    rows = TinyRun(finished[0]).sealed(name).read().to_pylist()
    assert [(r["slot"], r["class_id"]) for r in rows] == [(s, c) for s in range(3) for c in ("3", "7")]
    assert [r["batch"] for r in rows] == [0, 0, 0, 0, 1, 1]
    assert [r["seed_key"] for r in rows] == [f"0/{r['class_id']}/{r['slot']}/0/0" for r in rows]


def test_a_chunk_of_broken_images_alone_is_committed_too(tiny_folder: Path, tmp_path: Path) -> None:
    """It is done: it will not be tried again, and what is wrong with each image is in its commit."""
    broken = sorted((tiny_folder / "train" / "blue").iterdir())[:3]
    for path in broken:
        path.write_bytes(b"not an image")
    source = SourceConfig(kind="imagefolder", path=str(tiny_folder), image_size=32, max_broken=0.5)
    asked = config().model_copy(update={"source": source, "encode": config().encode.model_copy(update={"chunk": 3})})
    train = open_splits(source).train
    stage = encode.stage(asked, RunDir(str(tmp_path / "run")), train, VaeSpec(None))
    encoded = runner.run(stage, serial).sealed
    assert encoded.rows == 9 and encoded.records[0].rows == 0
    assert [b[0] for b in encoded.manifest.summary["broken"]] == [f"blue/{p.name}" for p in broken]
    grouped = group.stage(RunDir(str(tmp_path / "run")), encoded, train.classes)
    assert runner.run(grouped, serial).manifest.rows == 9
