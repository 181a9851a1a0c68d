"""The main job on a cluster of three nodes: work goes where the GPUs are, and the bytes are those of one node."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from clusters import ON_GPUS, gpu_nodes, placed, three_nodes
from ray.cluster_utils import Cluster
from running import finish, product

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]
Reference = tuple[Path, subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with three_nodes() as made:
        yield made


@pytest.fixture(scope="module")
def spread(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The run on the cluster: its directory, and what it said."""
    run = tmp_path_factory.mktemp("spread") / "run"
    done = finish(run, *ON_GPUS, RAY_ADDRESS=cluster.address)
    assert done.returncode == 0, done.stderr[-3000:]
    return run, done.stderr


def test_what_asks_for_a_gpu_runs_where_gpus_are(cluster: Cluster, spread: tuple[Path, str]) -> None:
    run, _ = spread
    latents, syntheses, evaluations = (placed(run, s) for s in ("latents", "syntheses", "evaluations"))
    assert (len(latents), len(syntheses), len(evaluations)) == (5, 3, 2)
    for units in (latents, syntheses, evaluations):
        assert set(units.values()) <= gpu_nodes(cluster)
    assert set(syntheses.values()) == gpu_nodes(cluster), "an actor that reserves a whole GPU has a node to itself"


def test_the_bytes_are_those_of_one_node(spread: tuple[Path, str], reference: Reference) -> None:
    assert product(spread[0]) == product(reference[0])


def test_every_node_was_asked_once_and_left_nothing_behind(spread: tuple[Path, str]) -> None:
    run, said = spread
    lines = [line for line in said.splitlines() if line.startswith("nodes ")]
    assert len(lines) == 1 and "3 of 3 proved that they see run_dir, source and weights" in lines[0]
    assert [p for p in run.rglob("*") if "probe" in p.name] == []
