"""Real runs that are told to end, as Kubernetes, Slurm, a closed terminal and Ctrl-C do: one line, a code, nobody left.

By default a run is stopped while it samples. Every signal at every moment, and moment after moment, take longer:

    python -m pytest -m slow tests/test_stopping.py
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from running import ROOT, TINY, commits, environment, finish, start
from test_kill import ARTIFACTS, NOWHERE, assert_undisturbed, await_that, count, family, kill, said

from raydistill import signals

Reference = tuple[Path, subprocess.CompletedProcess[str]]
CODES = {signal.SIGTERM: 143, signal.SIGHUP: 129, signal.SIGINT: 130}
QUICK = ("syntheses", signal.SIGTERM)  # what a plain `pytest` runs of the matrix
GONE_S = 10
NOISE = ("Traceback", "Fatal", "*** SIG", "@  ", "Aborted", "core dumped")


def in_fit(run: Path) -> bool:
    """Ray Train is at it. Its folder stays: a student's own state comes and goes in less than a look may take."""
    return any(run.glob("checkpoints/evaluate-*"))


def stop(process: subprocess.Popen[str], run: Path, number: signal.Signals, moment: Callable[[], bool]) -> None:
    """Sends the signal at the moment, and checks what is said, the exit code, and that nobody is left."""
    try:
        await_that(moment, process, run)
        members = [p for p in psutil.process_iter() if in_session(p, process.pid)] + family(process)
        process.send_signal(number)
        assert process.wait(60) == CODES[number], said(run)
        _, alive = psutil.wait_procs(members, timeout=GONE_S)
        _, left = psutil.wait_procs([p for p in psutil.process_iter() if in_session(p, process.pid)], timeout=GONE_S)
        assert not alive and not left
    finally:
        if process.poll() is None:  # otherwise its number may be another's by now
            kill(process, everything=True)
    log = run.with_suffix(".log").read_text()
    run.with_suffix(".log").unlink()
    assert log.splitlines()[-1] == signals.line(number), log
    assert not [noise for noise in NOISE if noise in log], log


def in_session(process: psutil.Process, leader: int) -> bool:
    try:
        return os.getsid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE
    except (OSError, psutil.NoSuchProcess):
        return False


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(1200)
def test_stopped_in_moment_after_moment_it_ends_as_if_nothing_had_happened(
    reference: Reference, tmp_path: Path
) -> None:
    run, (plain, _) = tmp_path / "run", reference
    process = start(run)
    stop(process, run, signal.SIGTERM, lambda: len(family(process)) > 1)  # Ray is starting
    assert commits(run) == {}
    stop(start(run), run, signal.SIGHUP, lambda: count(run, "latents") >= 1)
    process = start(run)
    await_that(lambda: count(run, "classes") >= 1, process, run)
    process.send_signal(signal.SIGSTOP)  # it is there, and gets nowhere meanwhile
    try:
        other = finish(run, "ipc=1", **NOWHERE)
        assert other.returncode == 2, other.stderr
        assert (
            f"is in use by another configuration (host {socket.gethostname()}, process {process.pid}, since "
            in (other.stderr.splitlines()[-1])
        )
    finally:
        process.send_signal(signal.SIGCONT)
    stop(process, run, signal.SIGTERM, lambda: count(run, "syntheses") >= 1)
    kept = commits(run)
    stop(start(run), run, signal.SIGINT, lambda: in_fit(run))
    assert kept.items() <= commits(run).items()
    done = finish(run)
    assert done.returncode == 0, done.stderr
    assert_undisturbed(run, plain)


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_a_fit_that_is_late_ends_with_words_and_without_workers(reference: Reference, tmp_path: Path) -> None:
    run, (plain, _) = tmp_path / "run", reference
    shutil.copytree(plain, run, copy_function=shutil.copy2)
    shutil.rmtree(run / "evaluations")
    process = start(run, "evaluate.deadline_s=1")
    try:
        await_that(lambda: len(family(process)) > 1, process, run)
        members = family(process)
        assert process.wait(300) == 1, said(run)
        _, alive = psutil.wait_procs(members, timeout=GONE_S)
        assert not alive
    finally:
        if process.poll() is None:  # otherwise its number may be another's by now
            kill(process, everything=True)
    last = said(run).splitlines()[-1]
    assert last.startswith("error: evaluate: no training finished for 1 s (mgd3/") and "evaluate.deadline_s" in last
    assert "no training finished for 1 s" in (run / "logs" / "error.txt").read_text()
    assert not [noise for noise in NOISE if noise in said(run)], said(run)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("number", CODES)
def test_a_training_of_a_generator_is_stopped_and_goes_on(tmp_path: Path, number: signal.Signals) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    keys = ["steps=400", "checkpoint_every=20", "batch=4", "layers=1", "heads=2", "head_dim=8", f"out={out}"]
    overrides = ["generator.objective=flow", "source.classes=[3,7]", *(f"pretrain.{key}" for key in keys)]
    command = [sys.executable, str(ROOT / "jobs" / "pretrain.py"), *overrides]

    def started() -> subprocess.Popen[str]:
        with open(run.with_suffix(".log"), "a") as log:
            return subprocess.Popen(
                command, env=environment(), cwd=tmp_path, stdout=log, stderr=log, text=True, start_new_session=True
            )

    def begun() -> bool:
        return any("checkpoint_2" in p.read_text() for p in out.glob(".train/*/checkpoint_manager_snapshot.json"))

    stop(started(), run, number, begun)
    assert started().wait(600) == 0, said(run)
    assert "continues after step" in said(run) and not (out / ".train").exists()


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_a_table_of_results_is_stopped_and_goes_on(tmp_path: Path) -> None:
    """Each of the scripts whose cells are kept says what a run says, and the same command makes what is missing."""
    run, out = tmp_path / "table", tmp_path / "cells"
    script = ROOT / "benchmarks" / "results" / "table.py"
    grid = [
        "--config",
        "quickstart",
        "--methods",
        "kmeans",
        "--protocols",
        "hard",
        "--ipc",
        "2",
        "--seeds",
        "0",
        "--full",
        "0",
    ]
    command = [sys.executable, str(script), *grid, "--out", str(out), "--work", str(run), "--", *set(TINY) - {"ipc=2"}]

    def started() -> subprocess.Popen[str]:
        with open(run.with_suffix(".log"), "a") as log:
            return subprocess.Popen(
                command, env=environment(), cwd=tmp_path, stdout=log, stderr=log, text=True, start_new_session=True
            )

    stop(started(), run, signal.SIGTERM, lambda: "assemble" in said(run))
    assert not list(out.glob("*.json"))
    assert started().wait(300) == 0, said(run)
    assert len(list(out.glob("*.json"))) == 1


@pytest.mark.ray
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("stage", "number"),
    [
        pytest.param(stage, number, marks=() if (stage, number) == QUICK else pytest.mark.slow)
        for stage in (*ARTIFACTS, "fit", "preflight", "report")
        for number in CODES
    ],
)
def test_every_signal_at_every_moment(reference: Reference, tmp_path: Path, stage: str, number: signal.Signals) -> None:
    """The stage is done again, and the run is stopped in its midst."""
    run, (plain, _) = tmp_path / "run", reference
    shutil.copytree(plain, run, copy_function=shutil.copy2)
    gone = {"fit": "evaluations", "report": "report.html", "preflight": "latents"}.get(stage, stage)
    if (run / gone).is_dir():
        shutil.rmtree(run / gone)
    else:
        (run / gone).unlink()
    for notes in run.glob("checkpoints/evaluate-*"):  # of the fit before
        shutil.rmtree(notes)
    process = start(run)
    moments: dict[str, Callable[[], bool]] = {
        "fit": lambda: in_fit(run),
        "preflight": lambda: "libtorch_cpu" in Path(f"/proc/{process.pid}/maps").read_text(),
        "report": lambda: "trainings found finished" in said(run),
    }
    stop(process, run, number, moments.get(stage, lambda: count(run, stage) >= 1))
    assert finish(run, **(NOWHERE if stage == "report" else {})).returncode == 0
    assert_undisturbed(run, plain)
