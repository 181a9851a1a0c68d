"""--dry-run: the whole preflight, the plan of work, and nothing written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from running import write_digits

from raydistill import cli, machine
from raydistill.config import load
from raydistill.models.checkpoint import WORK
from raydistill.pipeline import job
from raydistill.pipeline.preflight import absolute, prepare
from raydistill.pretraining.plan import make_plan
from raydistill.stages.evaluation import pixel_array
from raydistill.stages.runner import serial
from raydistill.store.rundir import CONFIG, TRIALS
from raydistill.tune import sweep


def planned(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, str]:
    assert cli.main([*argv, "--dry-run"]) == 0
    rows = [line.strip().split("  ", 1) for line in capsys.readouterr().out.splitlines()[1:]]
    return {name: amount.strip() for name, amount in rows}


def test_it_names_every_stage_with_its_amount_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [
        "ipc=3",
        "method=mgd3",
        "sampler.steps=9",
        "evaluate.baselines=[random]",
        "evaluate.seeds=2",
        "evaluate.full=false",
    ]
    rows = planned(capsys, "distill", *words, "evaluate.students=[convnet]")
    assert list(rows) == ["encode", "cluster", "sample mgd3", "sample random", "evaluate"]
    assert rows["sample mgd3"] == "30 images, each in 9 steps of the generator" and rows["sample random"] == "30 images"
    assert rows["evaluate"] == "2 sets x 2 trainings" and list(planned(capsys, "encode", "ipc=3")) == ["encode"]
    rows = planned(capsys, "distill", *words, "evaluate.full=true", "evaluate.full_epochs=30")
    assert rows["evaluate"] == "2 sets x 2 trainings and on all images, also for 30 epochs"
    assert not list(tmp_path.iterdir())


def test_what_is_finished_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"run_dir={tmp_path / 'run'}", "ipc=1"]
    job.run(prepare(load("quickstart", words)), "encode", execute=serial)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    rows = planned(capsys, "cluster", *words)
    assert rows["encode"].endswith(" images, finished") and not rows["group"].endswith("finished")
    assert "cluster" in rows and "evaluate" not in rows
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_what_is_refused_is_refused_there_too(refused: Callable[..., str]) -> None:
    assert "encode.num_gpus=9 need more" in refused("distill", "encode.num_gpus=9", "--dry-run")


def test_a_reference_says_where_all_images_lie_and_where_there_is_no_room_for_them(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """1,348 images to train on and 449 to test on, 3 x 32 x 32 bytes each, are 4.14 MB and 1.38 MB: in memory up to a
    quarter of it. One that is asked for nothing has none."""
    words = ("sample", "method=lgd", "ipc=2", "lgd.increment=1")
    on = "convnet on 1348 images, 10 epochs; a worker has these in"
    assert planned(capsys, *words)["reference"] == f"{on} memory, 4 MB, and the test images in memory, 1 MB"
    assert "reference" not in planned(capsys, *words, "learnability.space=latent")
    assert "reference" not in planned(capsys, *words, "learnability.omega=0")
    monkeypatch.setattr(machine, "memory", lambda: 4 * 2_000_000)
    filed = f"{on} a file, 4 MB, and the test images in memory, 1 MB"
    assert planned(capsys, *words)["reference"] == filed
    monkeypatch.setattr(pixel_array, "disk", lambda: 2_000_000)
    assert planned(capsys, *words)["reference"].startswith(f"{filed}; the disk of its files has 2 MB free: set TMPDIR ")
    smaller = planned(capsys, *words, "evaluate.protocol.image_size=16")["reference"]
    assert smaller == f"{on} memory, 1 MB, and the test images in memory, 0 MB", "the remedy"


def test_a_curriculum_says_how_its_increments_come_about_and_what_is_trained_on_the_way(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["distill", "method=lgd", "ipc=3", "evaluate.baselines=[]", "evaluate.seeds=2", "sampler.steps=9"]
    rows = planned(capsys, *words, "evaluate.full=false", "lgd.candidates=2", "evaluate.redundancy_parts=3")
    seed = "30 images: 1 a class by mgd3, each in 9 steps of the generator"
    assert rows["sample lgd"] == f"{seed}; the others one of 2, each in 9 steps of the generator"
    assert rows["judge lgd"] == "2 trainings, each on all increments so far"
    assert rows["evaluate"] == "1 set x 2 trainings; 2 on each of 3 parts of lgd"
    assert "judge lgd" not in planned(capsys, *words, "lgd.candidates=1", "learnability.scale=0")


def test_a_folder_that_is_judged_needs_nothing_beside_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = write_digits(tmp_path / "mine", train=1)
    words = ["evaluate", "--images", str(mine), "evaluate.baselines=[]", "evaluate.full=false", "evaluate.seeds=2"]
    rows = planned(capsys, *words, "evaluate.students=[convnet]")
    assert rows["import mine"] == "10 images" and rows["evaluate"] == "1 set x 2 trainings"


def searched(capsys: pytest.CaptureFixture[str], *argv: str) -> list[str]:
    assert cli.main(["tune", *argv, "--dry-run"]) == 0
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()[1:]]


def test_a_sweep_says_what_it_would_search_and_measure_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["tune.space.guidance.scale=loguniform(0.01,0.3)", "tune.samples=20", "tune.seeds=2", "tune.final_seeds=5"]
    words += ["tune.finalists=3", "ipc=2", "evaluate.students=[convnet]", "evaluate.protocol.evaluations=4"]
    assert searched(capsys, *words, "tune.scheduler=asha") == [
        "trials 20 trials by tpe, 4 together",
        "guidance.scale from 0.01 to 0.3 (log)",
        "each by 2 seeds, scored on 409 of the 1348 training images: accuracy (max)",
        "asha trials that are behind stop after 2 of the tests",
        "again the best 3 and the default by 5 seeds that no trial has seen",
        "test the winner and the default by 5 more, on 449 test images",
        "in all 72 sets, 20 images and 1 training each, where ipc is no knob; what is equal is made once",
    ]
    assert not list(tmp_path.iterdir())


def test_of_a_sweep_no_more_are_measured_again_than_were_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = searched(capsys, "tune.samples=2", "tune.seeds=1", "tune.finalists=9", "tune.final_seeds=2")
    assert "again the best 2 and the default by 2 seeds that no trial has seen" in rows
    assert rows[-1].startswith("in all 13 sets"), "three; three again and two on the test images, by two seeds each"


def test_a_sweep_names_the_trials_that_it_has_done_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"run_dir={tmp_path / 'run'}", f"tracking.uri=sqlite:///{tmp_path / 'mlflow.db'}", "tune.samples=9"]
    plan = sweep.planned(absolute(load("quickstart", words, "-tune")))
    root = plan.held_out.run.root
    plan.held_out.run.claim()
    (root / CONFIG).write(plan.config.yaml().encode())
    (root / TRIALS).write(b'{"of": 9, "trials": [{}, {}]}')
    assert searched(capsys, *words)[0] == "trials 9 trials by tpe, 4 together, 2 done before"
    assert searched(capsys, *words, "tune.seeds=3")[0] == "trials 9 trials by tpe, 4 together", "they are another's"


TINY = ["pretrain.steps=300", "pretrain.batch=4", "pretrain.layers=1", "pretrain.heads=2", "pretrain.head_dim=8"]


def test_a_training_of_weights_says_what_it_would_train_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    rows = planned(capsys, "pretrain", *TINY, "generator.objective=flow", f"pretrain.out={out}", "source.classes=[3,7]")
    assert rows["network"].startswith("generator, flow: ") and rows["network"].endswith(" million weights to train")
    assert rows["images"].split("; ")[1].endswith(" every 30 steps") and " in 2 classes; " in rows["images"]
    assert rows["steps"] == "300 of 4 images by 1 worker, kept every 250"
    assert rows["time"].startswith("about ") and rows["time"].endswith(", and encoding before it")
    assert not out.exists()


def test_a_training_that_was_interrupted_says_that_it_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*TINY, "generator.objective=flow", f"pretrain.out={tmp_path}"]
    assert "before" not in planned(capsys, "pretrain", *words)
    (tmp_path / WORK / make_plan(load("quickstart", words)).fingerprint).mkdir(parents=True)
    assert planned(capsys, "pretrain", *words)["before"] == "an earlier one has kept a state, and it goes on from there"


def test_a_training_is_refused_there_too(refused: Callable[..., str]) -> None:
    assert "pretrain.out is not set" in refused("pretrain", "--dry-run")
