"""Pretraining on Ray Train with two workers: equal to one without Ray, and, killed in every way, to itself."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from listeners import Watch
from PIL import Image
from safetensors.torch import load_file

from raydistill.config import load
from raydistill.models.checkpoint import WEIGHTS
from raydistill.pretraining.data import TrainingLatents
from raydistill.pretraining.group import ALONE
from raydistill.pretraining.plan import Plan, make_plan
from raydistill.pretraining.trainer import Trainer
from raydistill.pretraining.validation import Validation
from raydistill.results.status import status
from raydistill.sources.base import Listing
from raydistill.stages import runner
from raydistill.stages.latents import encode
from raydistill.store import schemas
from raydistill.store.rundir import RunDir

ROOT = Path(__file__).resolve().parents[1]
STEPS = 160
TINY = [
    f"pretrain.steps={STEPS}",
    "pretrain.checkpoint_every=20",
    "pretrain.validate_every=80",
    "pretrain.batch=4",
    "pretrain.layers=1",
    "pretrain.heads=2",
    "pretrain.head_dim=8",
    "generator.objective=flow",
    "source.classes=[3,7]",
]
CODE = (
    "import sys; from raydistill.config import load; from raydistill.pipeline.weights import pretrain\n"
    "print(pretrain(load('quickstart', sys.argv[1:])))"
)
ENV = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
NETWORK = Path("transformer") / WEIGHTS


class Driver:
    """A training in a process of its own, whose news are read as they come."""

    def __init__(self, *overrides: str) -> None:
        argv = [sys.executable, "-c", CODE, *TINY, *overrides]
        self.process = subprocess.Popen(
            argv, env=ENV, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        self.err: list[str] = []
        threading.Thread(target=lambda: self.err.extend(self.process.stderr or ()), daemon=True).start()

    def wait_for(self, what: Any, seconds: float = 200) -> None:
        deadline = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < deadline and self.process.poll() is None, "".join(self.err)[-2000:]
            time.sleep(0.05)

    def workers(self) -> list[psutil.Process]:
        """Processes of this driver's Ray Train workers, by the title that Ray gives them."""
        workers = []
        for p in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                workers += [p] if any("TrainWorker" in word for word in p.cmdline()) else []
        return workers

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()

    def finish(self) -> str:
        assert self.process.stdout is not None
        out = self.process.stdout.read()
        assert self.process.wait(300) == 0, "".join(self.err)[-2000:]
        return out.splitlines()[-1]


def registered(out: Path) -> bool:
    """Whether Ray Train's own record names a checkpoint; one that was only written is not continued from."""
    try:
        return any("checkpoint_2" in p.read_text() for p in out.glob(".train/*/checkpoint_manager_snapshot.json"))
    except OSError:
        return False


def latents(plan: Plan, listing: Listing, folder: Path) -> TrainingLatents:
    """Encoded and read without Ray."""
    assert plan.vae is not None
    stage = encode.stage(plan.config, RunDir(str(folder)), listing, plan.vae)
    manifest = runner.run(stage, runner.serial).manifest
    tables = [stage.artifact.read_table(r) for r in manifest.records]
    columns = [{n: np.asarray(t[n]) for n in ("image_id", "class_index")} for t in tables]
    batches = [c | {"latent": schemas.tensor_numpy(t["latent"])} for c, t in zip(columns, tables, strict=True)]
    return TrainingLatents.collect(batches, manifest.rows)


def alone(folder: Path) -> tuple[Trainer, list[float]]:
    """The training by one worker without Ray, and its validation losses."""
    plan = make_plan(load("quickstart", [*TINY, f"pretrain.out={folder / 'alone'}"]))
    assert plan.vae is not None
    task = plan.generator_task(latents(plan, plan.listing, folder / "latents"), "cpu")
    held = Validation(task, latents(plan, plan.held, folder / "latents"), plan.vae, plan.config.sampler, ())
    trainer, seen = Trainer(task, STEPS, plan.config.pretrain.lr, plan.config.pretrain.ema), []
    while trainer.step < STEPS:
        trainer.advance()
        if trainer.step % 80 == 0:
            seen.append(held.loss(trainer.ema.net, ALONE))
    return trainer, seen


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("two") / "out"
    driver = Driver("pretrain.workers=2", f"pretrain.out={out}")
    with Watch().at(driver.process.pid) as watch:
        assert driver.finish() == str(out)
    assert len(watch.seen) > 10 and watch.open_to_others() == [], "not even where gradients meet"
    return out


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_two_workers_train_what_one_trains_without_ray(undisturbed, tmp_path):
    trainer, seen = alone(tmp_path)
    record = json.loads((undisturbed / "training.json").read_text())
    assert record["workers"] == 2 and record["final_loss"] == pytest.approx(np.mean(trainer.losses[-100:]), rel=1e-3)
    assert [step for step, _ in record["validation_loss"]] == [80, 160]
    assert [loss for _, loss in record["validation_loss"]] == pytest.approx(seen, rel=1e-3)
    assert record["latent_scale"] == trainer.task.facts["latent_scale"]
    mine, theirs = trainer.ema.net.state_dict(), load_file(undisturbed / NETWORK)
    apart = max((mine[n].half().float() - theirs[n].float()).abs().max().item() for n in theirs)
    assert apart < 5e-3, "only rounding is between them"
    there = {"loss.png", "pipeline", "samples", "scheduler", "training.json", "transformer"}
    assert {p.name for p in undisturbed.iterdir()} == there
    pictures = sorted((undisturbed / "samples").iterdir())
    assert [p.name for p in pictures] == ["step-000080.png", "step-000160.png"]
    assert Image.open(pictures[0]).size == (96 + 2 + 96, 96 + 16), "with names below"


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(600)
def test_a_killed_worker_and_a_killed_driver_leave_no_trace_in_the_weights(undisturbed, tmp_path):
    out = tmp_path / "killed"
    overrides = ("pretrain.workers=2", f"pretrain.out={out}", f"artifact_dir={tmp_path / 'shared'}")
    driver = Driver(*overrides)
    try:
        driver.wait_for(lambda: registered(out))
        assert len(driver.workers()) == 2
        driver.workers()[-1].kill()
        driver.wait_for(lambda: any("continues after step" in line for line in driver.err))
    finally:
        driver.kill()
    assert not (out / "training.json").exists()
    assert "nobody is at work" in status(str(out))

    again = Driver(*overrides)
    assert again.finish() == str(out)
    said = "".join(again.err)
    assert "continues after step" in said and re.search(rf"{STEPS}/{STEPS} steps, loss .* \(validation", said), said
    assert "encode train  finished before" in said and (tmp_path / "shared" / "latents").is_dir()
    assert not (out / ".train").exists()
    assert "a training of weights that is finished, flow, 160 steps" in status(str(out))
    assert (out / NETWORK).read_bytes() == (undisturbed / NETWORK).read_bytes()
    record = (out / "training.json").read_bytes()
    third = Driver(*overrides)
    assert third.finish() == str(out) and "finished before" in "".join(third.err)
    assert (out / "training.json").read_bytes() == record
