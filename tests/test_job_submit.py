"""A submitted Ray job, from a clean copy of the repository: logs stream, the exit code counts, the bytes are equal."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest
from ray.job_submission import JobStatus, JobSubmissionClient
from running import ROOT, TINY, environment, free_port, product

from raydistill import signals

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]
Reference = tuple[Path, subprocess.CompletedProcess[str]]
RAY = str(Path(sys.executable).with_name("ray"))


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package and the jobs and nothing else, as a user who cloned them would submit."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("raydistill", "jobs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    return folder


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a head of our own, ended by its process ids."""
    temp = Path("/tmp") / f"raydistill-{os.getpid()}"  # socket paths below it must stay short
    port = free_port()
    dashboard, agent = port + 1, port + 2  # the agent's own port, taken wherever another cluster runs on the machine
    head = subprocess.Popen(
        [
            RAY,
            "start",
            "--head",
            "--block",
            f"--port={port}",
            f"--dashboard-port={dashboard}",
            f"--dashboard-agent-listen-port={agent}",
            f"--temp-dir={temp}",
            "--num-cpus=4",
            f"--object-store-memory={200 * 2**20}",
            "--disable-usage-stats",
        ],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    address = f"http://127.0.0.1:{dashboard}"
    try:
        deadline = time.monotonic() + 180
        while not answers(dashboard):
            assert head.poll() is None, head.communicate()[0][-2000:]
            assert time.monotonic() < deadline, "the head did not come up"
            time.sleep(0.5)
        yield address
    finally:
        members = [psutil.Process(head.pid), *psutil.Process(head.pid).children(recursive=True)]
        for member in members:
            try:
                member.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                continue
        head.communicate()
        psutil.wait_procs(members, timeout=30)
        shutil.rmtree(temp, ignore_errors=True)


def answers(port: int) -> bool:
    with socket.socket() as s:
        s.settimeout(1)
        return s.connect_ex(("127.0.0.1", port)) == 0


def submit(
    cluster: str, checkout: Path, *arguments: str, verb: str = "distill", keys: Sequence[str] = TINY
) -> subprocess.CompletedProcess[str]:
    argv = [
        RAY,
        "job",
        "submit",
        "--address",
        cluster,
        "--working-dir",
        str(checkout),
        "--",
        sys.executable,
        f"jobs/{verb}.py",
        *keys,
        *arguments,
    ]
    deadline = time.monotonic() + 180
    while True:
        done = subprocess.run(argv, env=environment(), capture_output=True, text=True, timeout=1000)
        if "No available agent" not in done.stderr or time.monotonic() > deadline:
            return done
        time.sleep(2)  # the dashboard answers before the agent of its node is up


def test_a_submitted_job_streams_its_stages_and_ends_with_the_same_bytes(
    cluster: str, checkout: Path, reference: Reference, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    done = submit(cluster, checkout, f"run_dir={run}")
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-3000:]
    for stage in ("encode", "group", "cluster", "sample mgd3", "evaluate", "accuracy"):
        assert any(line.startswith(stage[:12]) for line in said.splitlines()), stage
    assert str(run) in said
    assert product(run) == product(reference[0])


@pytest.mark.slow
def test_a_submitted_sweep_ends_with_its_page_and_is_told_of_nowhere(
    cluster: str, checkout: Path, tmp_path: Path
) -> None:
    keys = [k for k in TINY if not k.startswith(("evaluate.seeds", "evaluate.baselines", "evaluate.full"))]
    sizes = ["tune.samples=2", "tune.seeds=1", "tune.finalists=1", "tune.final_seeds=2", f"run_dir={tmp_path / 'run'}"]
    done = submit(cluster, checkout, *sizes, verb="tune", keys=keys)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert "2 of 2 trials done" in done.stdout + done.stderr
    assert {"study.html", "best.yaml", "study.json"} <= {p.name for p in (tmp_path / "run").iterdir()}
    assert not (tmp_path / "run" / "tracking").exists()


def test_a_job_that_fails_says_why_and_has_an_exit_code(cluster: str, checkout: Path) -> None:
    done = submit(cluster, checkout, "run_dir=runs/relative")
    assert done.returncode != 0
    line = "error: run_dir=runs/relative is relative, and a submitted job's working directory is thrown away"
    assert line in done.stdout + done.stderr


BYSTANDER = """
import os, sys, time
import ray

ray.init(log_to_driver=False)

@ray.remote(num_cpus=0)
class Seven:
    def say(self):
        return 7

seven = Seven.remote()
print("up", ray.get(seven.say.remote()), flush=True)
while not os.path.exists(sys.argv[1]):
    time.sleep(0.2)
print("still", ray.get(seven.say.remote()), flush=True)
"""


@pytest.mark.slow
def test_a_job_that_is_stopped_says_so_and_leaves_other_jobs_alone(
    cluster: str, checkout: Path, tmp_path: Path
) -> None:
    run, client = tmp_path / "run", JobSubmissionClient(cluster)
    (tmp_path / "bystander.py").write_text(BYSTANDER)
    other = client.submit_job(entrypoint=f"{sys.executable} {tmp_path}/bystander.py {tmp_path}/end")
    words = [sys.executable, "jobs/distill.py", *TINY, f"run_dir={run}"]
    job = client.submit_job(entrypoint=shlex.join(words), runtime_env={"working_dir": str(checkout)})
    deadline = time.monotonic() + 400
    while not any(run.glob("latents/*/commits/*.json")) or "up 7" not in client.get_job_logs(other):
        assert time.monotonic() < deadline, client.get_job_logs(job) + client.get_job_logs(other)
        time.sleep(0.2)
    client.stop_job(job)
    ended = (JobStatus.STOPPED, JobStatus.FAILED, JobStatus.SUCCEEDED)
    while client.get_job_status(job) not in ended:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert client.get_job_status(job) is JobStatus.STOPPED
    said = client.get_job_logs(job)
    assert said.splitlines()[-1] == signals.line(signal.SIGTERM), said
    (tmp_path / "end").touch()
    while client.get_job_status(other) not in ended:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert "still 7" in client.get_job_logs(other)
    done = submit(cluster, checkout, f"run_dir={run}")
    assert done.returncode == 0, done.stdout + done.stderr
