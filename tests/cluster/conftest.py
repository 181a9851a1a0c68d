"""Fixtures of the tests on clusters of several nodes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from clusters import STORE, head_alone
from ray.cluster_utils import Cluster

from raydistill.config import RayConfig
from raydistill.distributed import ending, runtime


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A head without CPUs and one node, whose second CPU is left to other work: room for one actor, or one student."""
    monkeypatch.setattr(runtime, "_local", True)  # is set back at the end
    with head_alone() as started:
        started.add_node(num_cpus=2, object_store_memory=STORE)
        started.wait_for_nodes()
        runtime.ensure_ray(RayConfig(address=started.address))
        try:
            yield started
        finally:
            ending.shutdown()
