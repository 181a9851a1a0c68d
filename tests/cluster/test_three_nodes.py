"""The main job on a cluster of three nodes: work goes where the GPUs are, the bytes are those of one node, always."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from clusters import ON_GPUS, gpu_nodes, placed, three_nodes
from ray.cluster_utils import Cluster
from running import TINY, finish, product, start

from raydistill import config as configuration
from raydistill.pipeline import job
from raydistill.pipeline.preflight import prepare
from raydistill.stages.runner import serial

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]
Reference = tuple[Path, subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with three_nodes() as started:
        yield started


@pytest.fixture(scope="module")
def spread(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The run on the cluster: its directory, and what it said."""
    run = tmp_path_factory.mktemp("spread") / "run"
    done = finish(run, *ON_GPUS, RAY_ADDRESS=cluster.address)
    assert done.returncode == 0, done.stderr[-3000:]
    return run, done.stderr


@pytest.mark.slow
def test_what_asks_for_a_gpu_runs_where_gpus_are(cluster: Cluster, spread: tuple[Path, str]) -> None:
    latents, syntheses, evaluations = (placed(spread[0], s) for s in ("latents", "syntheses", "evaluations"))
    assert (len(latents), len(syntheses), len(evaluations)) == (5, 3 + 3, 2), "mgd3's batches, and random's"
    for units in (latents, syntheses, evaluations):
        assert set(units.values()) <= gpu_nodes(cluster)


def test_the_bytes_are_those_of_one_node(spread: tuple[Path, str], reference: Reference) -> None:
    assert product(spread[0]) == product(reference[0])


def test_every_node_was_asked_once_and_left_nothing_behind(spread: tuple[Path, str]) -> None:
    run, said = spread
    lines = [line for line in said.splitlines() if line.startswith("nodes ")]
    assert len(lines) == 1 and "3 of 3 proved that they see run_dir, source and weights" in lines[0]
    assert [p for p in run.rglob("*") if "probe" in p.name] == []


def test_a_node_that_is_lost_while_it_samples_changes_nothing(
    cluster: Cluster, spread: tuple[Path, str], tmp_path: Path
) -> None:
    """The last test here: afterwards the cluster has one worker, and the second actor waits for a GPU for ever."""
    many = ["sample.batch=1", "sampler.steps=100", "evaluate.baselines=[]"]
    whole, lost = (Path(shutil.copytree(spread[0], tmp_path / name)) for name in ("whole", "lost"))
    process = start(lost, *many, *ON_GPUS, verb="sample", RAY_ADDRESS=cluster.address)
    try:
        (folder,) = await_new(lost, spread[0])
        gone = cluster.list_all_nodes()[-1]
        cluster.remove_node(gone, allow_graceful=False)
        left = 8 - len(list((folder / "commits").iterdir()))
        assert process.wait(timeout=600) == 0, lost.with_suffix(".log").read_text()[-3000:]
    finally:
        process.kill()
        process.wait()
    assert left > 0, "the node was lost in the midst of sampling"
    (survivor,) = gpu_nodes(cluster)
    assert survivor in placed(lost, folder.parent.name).values()
    overrides = [*TINY, *many, f"run_dir={whole}"]
    job.run(prepare(configuration.load("quickstart", overrides)), "sample", serial)
    assert product(lost) == product(whole) != product(spread[0])


def await_new(run: Path, before: Path) -> list[Path]:
    """The folders of syntheses that `before` has not, once two of their units are committed."""
    known = {p.name for p in (before / "syntheses").iterdir()}
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        new = [p for p in (run / "syntheses").iterdir() if p.name not in known]
        if any(len(list((p / "commits").iterdir())) >= 2 for p in new if (p / "commits").exists()):
            return new
        time.sleep(0.01)
    raise AssertionError(run.with_suffix(".log").read_text()[-3000:])
