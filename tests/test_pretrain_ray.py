"""Pretraining on Ray Train: killed with its driver, continued, and equal to a training without Ray."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from raydistill.config import load
from raydistill.models.checkpoint import WEIGHTS
from raydistill.pretraining.plan import make_plan
from raydistill.pretraining.trainer import Trainer

ROOT = Path(__file__).resolve().parents[1]
TINY = [
    "pretrain.steps=400",
    "pretrain.checkpoint_every=20",
    "pretrain.batch=4",
    "pretrain.layers=1",
    "pretrain.heads=2",
    "pretrain.head_dim=8",
]


def registered(out: Path) -> bool:
    """Whether Ray Train's own record names a checkpoint; one that was only written is not continued from."""
    try:
        return any("checkpoint_2" in p.read_text() for p in out.glob(".train/*/checkpoint_manager_snapshot.json"))
    except OSError:
        return False


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_killed_and_run_again_it_ends_with_the_same_weights(tmp_path):
    plain = make_plan(load("quickstart", [*TINY, f"pretrain.out={tmp_path / 'plain'}"]))
    trainer = Trainer(plain.task("cpu", print), 400, plain.config.pretrain.lr, plain.config.pretrain.ema)
    while trainer.step < 400:
        trainer.advance()
    plain.write(trainer.ema.net, trainer.losses, trainer.seconds)

    out = tmp_path / "killed"
    code = (
        "import sys; from raydistill.config import load; from raydistill.stages.pretrain import pretrain\n"
        "print(pretrain(load('quickstart', sys.argv[1:])))"
    )
    argv = [sys.executable, "-c", code, *TINY, f"pretrain.out={out}"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(argv, env=env, stderr=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
    deadline = time.monotonic() + 240
    try:
        while not registered(out):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.05)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert not (out / "training.json").exists()

    again = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0 and again.stdout.splitlines()[-1] == str(out), again.stderr[-2000:]
    assert "continues after step" in again.stderr and "400/400 steps" in again.stderr
    assert not (out / ".train").exists()
    weights = Path("transformer") / WEIGHTS
    assert (out / weights).read_bytes() == (plain.out / weights).read_bytes()
    record = (out / "training.json").read_bytes()
    third = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60)
    assert third.returncode == 0 and "finished before" in third.stderr
    assert (out / "training.json").read_bytes() == record
