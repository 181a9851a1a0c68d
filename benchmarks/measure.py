"""What the speed benchmarks share: a command under watch, rates from commits, results that name their machine.

Wall seconds say what a user waits, CPU seconds what the work costs: on a machine with other work the first suffer and
the second hardly. Start-up and steady state are told apart by the times of the commits: a stage with A workers is
steady from its A-th commit to its last.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the package is found also where it is not installed
RESULTS = ROOT / "benchmarks" / "results" / "speed"
LIBRARIES = ("torch", "ray", "diffusers", "faiss-cpu", "scikit-learn", "numpy", "pyarrow")


@dataclass
class Watched:
    """A finished command. `cpu` holds (time, CPU seconds so far of it and all below it), `pss` (time, bytes)."""

    start: float
    end: float = 0.0
    cpu: list[tuple[float, float]] = field(default_factory=list)
    pss: list[tuple[float, int]] = field(default_factory=list)

    def cpu_between(self, start: float, stop: float) -> float:
        times, seconds = zip(*self.cpu, strict=True)
        return float(np.interp(stop, times, seconds) - np.interp(start, times, seconds))


def watch(
    command: Sequence[str],
    log: Path,
    memory_every: float | None = None,
    tick: Callable[[float], None] = lambda now: None,
) -> Watched:
    """Runs a command to its end and samples what it and all processes below it cost. Ends with its log if it fails.

    CPU seconds, which are cheap to read, four times a second; memory every `memory_every` seconds, or never.
    """
    seen: dict[tuple[int, float], float] = {}  # a process that ends keeps the seconds it was last seen with
    with open(log, "w") as out:
        done = Watched(time.time())
        job = subprocess.Popen(command, stdout=out, stderr=out, cwd=log.parent, env=plain_environment())
        process = psutil.Process(job.pid)
        try:
            while True:
                ended, processes = job.poll() is not None, family(process)
                for p in processes:
                    with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                        used = p.cpu_times()
                        seen[p.pid, p.create_time()] = used.user + used.system
                now = time.time()
                done.cpu.append((now, sum(seen.values())))
                if memory_every is not None and (not done.pss or now - done.pss[-1][0] >= memory_every):
                    done.pss.append((now, sum(map(pss, processes))))
                tick(now)
                if ended:
                    break
                time.sleep(0.25)
        except BaseException:  # also when this process is stopped: nothing it started goes on
            for p in reversed(family(process)):
                p.kill()
            raise
    done.end = time.time()
    if job.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {job.returncode}:\n{log.read_text()}")
    return done


def pss(process: psutil.Process) -> int:
    """Proportional set size, bytes: pages that processes share are counted once in all of them together."""
    try:
        return process.memory_full_info().pss
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0


def family(process: psutil.Process) -> list[psutil.Process]:
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def plain_environment() -> dict[str, str]:
    """This process's without settings of threads and of memory: each side of a comparison makes its own, or none."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "MKL_", "MALLOC_", "RAY_", "RAYDISTILL_"))}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**kept, "HF_HUB_OFFLINE": "1", "PYTHONPATH": path}


def job(verb: str, *overrides: str) -> list[str]:
    """The command of a job of this repository."""
    return [sys.executable, str(ROOT / "jobs" / f"{verb}.py"), *overrides]


def child(script: str, **body: Any) -> list[str]:
    """The command that runs `script --child BODY`: the plain side of a comparison, in a process of its own."""
    return [sys.executable, str(Path(script).resolve()), "--child", json.dumps(body)]


@dataclass(frozen=True)
class Commit:
    time: float
    rows: int


def only(stage: Path) -> Path:
    """STAGE/FINGERPRINT, of which there must be one."""
    artifacts = sorted(stage.iterdir())
    if len(artifacts) != 1:
        raise SystemExit(
            f"{stage} holds {len(artifacts)} artifacts, so other inputs were used there; give another --work"
        )
    return artifacts[0]


def commits(stage: Path) -> list[Commit]:
    """The commits of the artifact below STAGE/, in order of time."""
    files = list((only(stage) / "commits").glob("*.json"))
    committed = [Commit(f.stat().st_mtime, json.loads(f.read_text())["rows"]) for f in files]
    return sorted(committed, key=lambda c: c.time)


@dataclass(frozen=True)
class Steady:
    """A stage from its `workers`-th commit to its last. first_s: from the start of the command to the first commit."""

    rows: int
    wall_s: float
    cpu_s: float
    first_s: float
    whole_s: float

    def row(self) -> dict[str, float]:
        return {
            "wall_s_an_image": self.wall_s / self.rows,
            "cpu_s_an_image": self.cpu_s / self.rows,
            "first_commit_s": self.first_s,
            "whole_command_s": self.whole_s,
        }


def steady(done: Watched, commits: Sequence[Commit], workers: int) -> Steady:
    """The rate without start-up. Raises ValueError where there are too few commits to tell."""
    if len(commits) < 2 * workers:
        raise ValueError(f"{len(commits)} commits of {workers} workers tell no rate; ask for more images")
    start, stop = commits[workers - 1].time, commits[-1].time
    rows = sum(c.rows for c in commits[workers:])
    cpu = done.cpu_between(start, stop)
    return Steady(rows, stop - start, cpu, commits[0].time - done.start, done.end - done.start)


def medians(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    return {k: statistics.median(r[k] for r in rows) for k in rows[0]}


def machine() -> dict[str, Any]:
    """What a number was made on. `load` is the mean number of runnable processes over the last minute."""
    model = next((line for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "")
    return {
        "cores": os.cpu_count(),
        "processor": model.partition(":")[2].strip() or platform.machine(),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def save(path: Path, body: dict[str, Any], table: str) -> None:
    """NAME.json with every measurement, NAME.md with the table; the table is printed, too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").write_text(json.dumps(body, indent=1, sort_keys=True) + "\n")
    path.with_suffix(".md").write_text(table + "\n")
    print(table)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [list(head), ["---"] * len(head), *map(list, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def inputs(**paths: Path) -> list[str]:
    """Overrides that say where the data and the weights are: inputs(source=DIR, vae=DIR)."""
    return [f"{name}.path={path.resolve()}" for name, path in paths.items()]
