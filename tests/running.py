"""Runs of the whole pipeline that several tests share: the smallest configuration, its command, its traces."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
from listeners import Watch

from raydistill.identity import digest
from raydistill.sources.images import png

ROOT = Path(__file__).resolve().parents[1]

# Four classes of the embedded digits; several keys in every stage, and as little work in each as there can be.
TINY = [
    "source.classes=[0,1,2,3]", "encode.chunk=110", "encode.actors=1", "group.buckets=4", "ipc=2",
    "sampler.steps=3", "sampler.cfg_scale=1", "sample.batch=3", "sample.actors=1",
    "evaluate.protocol.visits=64", "evaluate.protocol.evaluations=2", "evaluate.seeds=1", "evaluate.width=8",
    "evaluate.baselines=[random]", "evaluate.full=false", "evaluate.workers=1",
]  # fmt: skip
STAGES = (
    "encode",
    "group",
    "cluster",
    "plan mgd3",
    "sample mgd3",
    "plan random",
    "sample random",
    "means",
    "check mgd3",
    "assemble",
    "evaluate",
    "accuracy",
    "report",
)


def environment(**more: str) -> dict[str, str]:
    """This process's, without what would lead a run to a cluster of somebody else.

    Heads that tests start ask for no token; a local run does not obey that (test_private.py).
    """
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "RAYDISTILL_"))}
    return {**kept, "RAY_AUTH_MODE": "disabled", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **more}


def free_port() -> int:
    """A port below 10000: Ray's own workers take those above."""
    for port in range(7300 + os.getpid() % 500, 9900):
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError("no free port below 9900")


def command(run: Path, *overrides: str, verb: str = "distill") -> list[str]:
    return [sys.executable, str(ROOT / "jobs" / f"{verb}.py"), *TINY, f"run_dir={run}", *overrides]


def start(run: Path, *overrides: str, verb: str = "distill", **env: str) -> subprocess.Popen[str]:
    """The command in a session (process group) of its own. What it says goes to RUN.log, beside the run."""
    log = run.with_suffix(".log")
    with open(log, "a") as out:
        return subprocess.Popen(
            command(run, *overrides, verb=verb),
            env=environment(**env),
            cwd=log.parent,
            stdout=out,
            stderr=out,
            text=True,
            start_new_session=True,
        )


def finish(run: Path, *overrides: str, watch: Watch | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    """Runs the command to its end, in a folder that is not the checkout's. `watch` sees what it listens on."""
    process = subprocess.Popen(
        command(run, *overrides),
        env=environment(**env),
        cwd=run.parent,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        with watch.at(process.pid) if watch else nullcontext():
            out, err = process.communicate(timeout=1000)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def product(run: Path) -> dict[str, bytes]:
    """The files of distilled/."""
    folder = run / "distilled"
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def traces(run: Path) -> dict[str, tuple[int, int]]:
    """Every file below a run directory with its inode and modification time."""
    return {str(p.relative_to(run)): (p.stat().st_ino, p.stat().st_mtime_ns) for p in run.rglob("*") if p.is_file()}


def commits(run: Path) -> dict[str, tuple[int, int]]:
    """Files of whole commits (the record and its data) below a run, with inode and modification time."""
    found = {}
    for record in run.glob("*/*/commits/*.json"):
        if digest(record.read_bytes())[:16] == record.stem.rpartition("~")[2]:
            for file in (record, record.parents[1] / json.loads(record.read_text())["file"]):
                found[str(file.relative_to(run))] = (file.stat().st_ino, file.stat().st_mtime_ns)
    return found


def write_digits(path: Path, train: int = 2, val: int = 1) -> Path:
    """An ImageFolder of ten classes named "0" to "9", so that the packaged generator fits; the same bytes always."""
    for split, count in (("train", train), ("val", val)):
        for c in range(10):
            folder = path / split / str(c)
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = np.random.default_rng([c, i, count]).integers(0, 255, (9, 11, 3)).astype(np.uint8)
                (folder / f"{i:03d}.png").write_bytes(png(pixels))
    return path
