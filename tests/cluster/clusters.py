"""Clusters of several nodes on this machine, made like cluster.yaml: a head without CPUs, workers with a GPU each.

The GPUs are pretended: Ray places by them, and torch is told to use the CPU.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from ray.core.generated import autoscaler_pb2

STORE = 100 * 2**20
ON_GPUS = [
    "encode.num_gpus=0.5", "encode.actors=2", "encode.device=cpu",
    "sample.num_gpus=1", "sample.actors=2", "sample.device=cpu",
    "evaluate.num_gpus=0.5", "evaluate.workers=2", "evaluate.device=cpu",
]  # fmt: skip


@contextmanager
def three_nodes() -> Iterator[Cluster]:
    with head_alone() as cluster:
        for _ in range(2):
            cluster.add_node(num_cpus=3, num_gpus=1, object_store_memory=STORE)
        cluster.wait_for_nodes()
        yield cluster


@contextmanager
def head_alone() -> Iterator[Cluster]:
    with pytest.MonkeyPatch.context() as env:
        env.setenv("RAY_AUTH_MODE", "disabled")
        env.setenv("OMP_NUM_THREADS", "1")
        cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 0, "include_dashboard": False, "object_store_memory": STORE},
        )
        try:
            yield cluster
        finally:
            cluster.shutdown()


def gpu_nodes(cluster: Cluster) -> set[str]:
    return {node.node_id for node in cluster.worker_nodes}


def placed(run: Path, stage: str) -> dict[str, str]:
    """Unit -> node id, over all artifacts of a stage."""
    files = sorted((run / "logs" / "placement").glob(f"{stage}-*.json"))
    return {
        f"{file.stem} {key}": node.partition("/")[2]
        for file in files
        for key, node in json.loads(file.read_text()).items()
    }


def give_notice(cluster: Cluster, node_id: str, seconds: float) -> None:
    """As `ray drain-node` and the autoscaler do when a spot machine will be taken away."""
    deadline_ms = int(1000 * (time.time() + seconds))
    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    accepted, why = GcsClient(address=cluster.address).drain_node(node_id, reason, "spot", deadline_ms)
    assert accepted, why
