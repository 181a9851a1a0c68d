"""A sweep that is killed at every kind of commit of a trial, and on Ray: the same command ends it as if it had not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_sweep
from running import ROOT, TINY, environment
from test_kill import await_that, kill

from raydistill.store import faults
from raydistill.tune import sweep

SCALE = {"guidance": {"scale": "loguniform(0.01,0.5)"}}
SMALL: dict[str, Any] = {"samples": 2, "seeds": 1, "together": 2, "finalists": 1, "final_seeds": 2}
OF_A_TRIAL = ("plan", "syntheses", "evaluations", "rungs", "training")
FILES = ("study.json", "best.yaml", "study.html")


class Killed(BaseException):
    """As SIGKILL: nothing catches it."""


def test_killed_at_every_commit_of_a_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the first of each kind, in one directory: the files are those of a sweep that nobody killed."""
    tiny_sweep.without_ray(monkeypatch)
    whole, config = (
        tiny_sweep.config(tmp_path / name, SCALE, **SMALL, scheduler="asha") for name in ("whole", "killed")
    )
    sweep.main(whole)
    reached: set[tuple[str, str]] = set()

    def kill(stage: str, point: str, key: str) -> None:
        if stage in OF_A_TRIAL and (stage, point) not in reached:
            reached.add((stage, point))
            raise Killed

    monkeypatch.setattr(faults, "hook", kill)
    kills = 0
    while True:
        try:
            sweep.main(config)
            break
        except Killed:
            kills += 1
    assert kills == len(reached) and {stage for stage, _ in reached} == set(OF_A_TRIAL)
    assert {p for s, p in reached if s == "evaluations"} == set(faults.POINTS)
    for name in FILES:
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_sigkill_in_mid_sweep_on_ray(tmp_path: Path) -> None:
    """The driver is killed when its first round of trials is known, and the command is given again."""
    assert command(tmp_path / "whole").wait(900) == 0
    driver, log = command(tmp_path / "killed"), tmp_path / "killed.log"
    await_that(lambda: "2 of 6 trials done" in log.read_text(), driver, tmp_path / "killed")
    kill(driver)
    assert not (tmp_path / "killed" / "study.json").exists()
    assert command(tmp_path / "killed").wait(900) == 0
    for name in ("best.yaml", "study.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def command(run: Path) -> subprocess.Popen[str]:
    """jobs/tune.py in a folder that is not the checkout's, in a session of its own."""
    keys = [k for k in TINY if not k.startswith(("evaluate.seeds", "evaluate.baselines", "evaluate.full"))]
    sizes = [f"tune.{k}={v}" for k, v in {**SMALL, "samples": 6}.items()]
    words = [*keys, *sizes, "tune.space.guidance.scale=loguniform(0.01,0.5)", f"run_dir={run}"]
    with open(run.with_suffix(".log"), "a") as out:
        return subprocess.Popen(
            [sys.executable, str(ROOT / "jobs" / "tune.py"), *words],
            env=environment(),
            cwd=run.parent,
            stdout=out,
            stderr=out,
            text=True,
            start_new_session=True,
        )
