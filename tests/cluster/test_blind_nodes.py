"""Nodes that really do not share a disk (DESIGN promise 8): a mount namespace in which folders are others.

Needs root; `python -m pytest -m slow tests/cluster`. tests/test_visibility.py tells the check to look elsewhere.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from clusters import STORE, head_alone
from ray.cluster_utils import Cluster
from running import ROOT, environment, write_digits

from raydistill.models.checkpoint import packaged

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(900)]
RAY = str(Path(sys.executable).with_name("ray"))
NODE = "elsewhere"


@dataclass
class Disk:
    """`shared` is what both nodes see, `hidden` an empty folder on the second node, `fixed` read-only there."""

    shared: Path
    hidden: Path
    fixed: Path
    address: str

    def ends(self, code: int, *overrides: str) -> str:
        """Runs the encode job, which does not need `overrides` to be whole; what it said."""
        argv = [
            sys.executable,
            str(ROOT / "jobs" / "encode.py"),
            "source.kind=imagefolder",
            f"source.path={self.shared / 'set'}",
            f"run_dir={self.shared / 'run'}",
            "encode.chunk=7",
            "encode.batch=4",
            "encode.actors=1",
            *overrides,
        ]
        done = subprocess.run(
            argv,
            env=environment(RAY_ADDRESS=self.address),
            cwd=self.shared,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == code, done.stderr[-3000:]
        return done.stderr.splitlines()[-1] if code else done.stderr

    def refused(self, what: str, *overrides: str) -> None:
        line = self.ends(2, *overrides)
        weights = "weights of the hub (`hf download`, of the revision that the driver has), "
        cache = f"fill that node's cache, too, with {weights}" if "vae.path" in what else ""
        assert line == (
            f"error: nodes: {NODE} does not see {what}; mount it there under the same path, give an s3:// "
            f"or gs:// URI, {cache}or take the node out of the cluster"
        )


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disk]:
    base = tmp_path_factory.mktemp("disk")
    shared, hidden, fixed = (base / name for name in ("shared", "hidden", "fixed"))
    for folder in (shared, hidden, fixed):
        folder.mkdir()
    if subprocess.run(["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", str(hidden)], check=False).returncode:
        pytest.skip("mount namespaces cannot be made here (needs root)")
    write_digits(shared / "set")
    write_digits(hidden / "set")
    shutil.copytree(packaged("vae"), hidden / "vae")
    with head_alone() as cluster:
        worker = join(
            cluster,
            f"mount -t tmpfs tmpfs {hidden} && mount --bind {fixed} {fixed} && mount -o remount,bind,ro {fixed}",
            base / "worker.log",
        )
        try:
            yield Disk(shared, hidden, fixed, cluster.address)
        finally:
            end(worker)


def join(cluster: Cluster, mounts: str, log: Path) -> subprocess.Popen[bytes]:
    """A second node whose processes see what `mounts` leaves them."""
    start = (
        f"{RAY} start --address={cluster.address} --node-name={NODE} --num-cpus=3 --object-store-memory={STORE} "
        "--disable-usage-stats --block"
    )
    with open(log, "wb") as out:
        worker = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", f"{mounts} && exec {start}"],
            env=environment(),
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    deadline = time.monotonic() + 180
    while NODE not in {n["NodeName"] for n in cluster.global_state.node_table() if n["Alive"]}:
        assert worker.poll() is None and time.monotonic() < deadline, log.read_text()[-2000:]
        time.sleep(0.5)
    return worker


def end(worker: subprocess.Popen[bytes]) -> None:
    members = [*psutil.Process(worker.pid).children(recursive=True)]
    os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()
    for member in members:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(members, timeout=30)


def test_a_run_directory_that_one_node_does_not_see_is_refused_and_not_made(disk: Disk) -> None:
    run = disk.hidden / "runs" / "mine"
    disk.refused(f"run_dir {run}", f"run_dir={run}")
    assert not (disk.hidden / "runs").exists()


def test_a_run_directory_that_one_node_cannot_write_is_refused(disk: Disk) -> None:
    (disk.fixed / "run").mkdir()
    disk.refused(f"run_dir {disk.fixed}/run for writing", f"run_dir={disk.fixed}/run")
    assert list((disk.fixed / "run").iterdir()) == []


def test_artifacts_source_and_weights_that_one_node_does_not_see_are_named_together(disk: Disk) -> None:
    disk.refused(
        f"artifact_dir {disk.hidden}/kept, source.path {disk.hidden}/set (split train, 0/000.png), "
        f"vae.path {disk.hidden}/vae/config.json and 2 more of its files",
        f"artifact_dir={disk.hidden}/kept",
        f"source.path={disk.hidden}/set",
        f"vae.path={disk.hidden}/vae",
    )
    assert not (disk.shared / "run").exists()


def test_a_node_that_sees_everything_proves_it_and_works(disk: Disk) -> None:
    said = disk.ends(0, f"run_dir={disk.shared}/whole")
    assert "2 of 2 proved that they see run_dir, source and weights" in said
    assert len(list((disk.shared / "whole").glob("latents/*/commits/*.json"))) == 3
