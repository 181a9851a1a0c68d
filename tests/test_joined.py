"""A cluster that cannot be joined is refused within seconds, in one line whose remedy works."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from listeners import tree
from running import ROOT, environment, finish, free_port

from raydistill.config import RayConfig
from raydistill.distributed import joined, nodes
from raydistill.errors import BadInput

RAY = str(Path(sys.executable).with_name("ray"))
TOKEN = "a-token-that-only-this-head-has"
JOIN = """
import os
import sys
import ray
from raydistill.config import RayConfig
from raydistill.errors import RaydistillError
from raydistill.distributed.runtime import ensure_ray
try:
    ensure_ray(RayConfig(address=sys.argv[1]))
    told = ray.get(ray.remote(lambda: os.environ["RAY_ADDRESS"]).remote())
    print("joined", len(ray.nodes()), told == ray.get_runtime_context().gcs_address)
except RaydistillError as e:
    print(e.exit_code, e)
"""


@pytest.mark.parametrize("address", ["ray://head:10001", "http://head:8265", "head", "head:six", ":6379", "head:0"])
def test_what_is_no_address_of_a_head_is_refused(address):
    with pytest.raises(BadInput, match=r"ray.address=.*: not the HOST:PORT of a head .*ray job submit"):
        joined.check(address)


def test_the_place_that_an_address_comes_from_is_named(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    with pytest.raises(BadInput, match=r"^RAY_ADDRESS=ray://head:10001: "):
        joined.check("ray://head:10001")


def test_local_is_a_cluster_of_ones_own(monkeypatch):
    assert nodes.joins(RayConfig(address="local")) is None
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert nodes.joins(RayConfig()) is None


def test_what_answers_but_is_no_head_is_refused(monkeypatch):
    monkeypatch.setattr(joined, "ANSWER_S", 0.5)
    monkeypatch.setattr(joined.services, "canonicalize_bootstrap_address", lambda address: address)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(BadInput, match="no Ray head answers there; give the HOST:PORT"):
            joined.check(f"127.0.0.1:{silent.getsockname()[1]}")


@pytest.mark.timeout(100)
def test_a_head_that_is_not_there_ends_a_run_before_it_writes(tmp_path):
    address = f"127.0.0.1:{free_port()}"
    done = finish(tmp_path / "run", RAY_ADDRESS=address)
    said = done.stderr.splitlines()
    assert done.returncode == 2 and not (tmp_path / "run").exists()
    assert f"joining the cluster at {address}" in said[-2]
    assert f"RAY_ADDRESS={address}: no Ray head answers there" in said[-1]


@pytest.fixture(scope="module")
def head() -> Iterator[str]:
    """The address of a head that asks for a token."""
    temp, port = Path(f"/tmp/rdj{os.getpid()}"), free_port()
    process = subprocess.Popen(
        [RAY, "start", "--head", "--block", f"--port={port}", f"--temp-dir={temp}", "--include-dashboard=false",
         f"--dashboard-agent-listen-port={port + 1}",
         "--num-cpus=2", f"--object-store-memory={100 * 2**20}", "--disable-usage-stats"],
        env=environment(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=TOKEN),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while not any("raylet" in p.name() for p in tree(process.pid)):
            assert process.poll() is None and time.monotonic() < deadline, "the head did not come up"
            time.sleep(0.3)
        yield f"127.0.0.1:{port}"
    finally:
        members = tree(process.pid)
        for member in members:
            with suppress(psutil.Error):
                member.send_signal(signal.SIGKILL)
        process.wait()
        psutil.wait_procs(members, timeout=30)
        shutil.rmtree(temp, ignore_errors=True)


def join(address: str, **env: str) -> str:
    variables = environment(PYTHONPATH=str(ROOT), HOME="/nowhere") | {"RAY_AUTH_MODE": "", **env}
    return subprocess.run(
        [sys.executable, "-c", JOIN, address], env=variables, text=True, stdout=subprocess.PIPE
    ).stdout


@pytest.mark.ray
@pytest.mark.timeout(300)
def test_a_missing_or_wrong_token_is_told_with_a_remedy_that_works(head):
    for env in (
        {},
        {"RAY_AUTH_MODE": "disabled"},
        {"RAY_AUTH_MODE": "token"},
        {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "another"},
    ):
        said = join(head, **env)
        assert said.startswith(f"2 ray.address={head}: ") and said.count("\n") == 1, said
        assert "token; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN=" in said or "or another; set RAY_AUTH" in said, said
        assert "`ray get-auth-token` there prints it" in said

    there = environment(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=TOKEN)
    printed = subprocess.run([RAY, "get-auth-token"], env=there, text=True, stdout=subprocess.PIPE, check=True).stdout
    assert join(head, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=printed) == "joined 1 True\n"
