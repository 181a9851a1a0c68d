"""A pretraining on nodes of which some go: elsewhere it goes on; without a place it ends soon, and with a line."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray
from clusters import STORE, head_alone
from ray.cluster_utils import Cluster

from raydistill.config import load
from raydistill.distributed import ending, fits, runtime
from raydistill.distributed.pretrain.job import pretrain
from raydistill.errors import StageFailed
from raydistill.models.checkpoint import WEIGHTS

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1200)]
STEPS = 3000
TINY = [
    f"pretrain.steps={STEPS}", "pretrain.checkpoint_every=100", "pretrain.validate_every=1500", "pretrain.workers=3",
    "pretrain.batch=6", "pretrain.layers=1", "pretrain.heads=2", "pretrain.head_dim=8", "generator.objective=flow",
    "source.classes=[3,7]",
]  # fmt: skip


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A head without CPUs and three nodes of two: three workers need two of them."""
    monkeypatch.setattr(runtime, "_local", True)  # is set back at the end
    with head_alone() as started:
        for _ in range(3):
            started.add_node(num_cpus=2, object_store_memory=STORE)
        started.wait_for_nodes()
        try:
            yield started
        finally:
            ending.shutdown()


class Training(threading.Thread):
    """One that is trained beside the test. `error`: what it ended with; `said`: its lines."""

    def __init__(self, cluster: Cluster, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
        super().__init__()
        self.config = load("quickstart", [*TINY, f"pretrain.out={out}", f"ray.address={cluster.address}"])
        self.error: StageFailed | None = None
        self.capsys, self.said = capsys, ""

    def run(self) -> None:
        try:
            pretrain(self.config)
        except StageFailed as e:
            self.error = e

    def says(self, what: str) -> bool:
        self.said += self.capsys.readouterr().err
        return what in self.said

    def await_(self, true: Callable[[], bool]) -> None:
        while not true():
            assert self.is_alive(), (self.error, self.said)
            time.sleep(0.1)


def kept(out: Path) -> bool:
    """Whether Ray Train's own record names a checkpoint."""
    return any("checkpoint_" in p.read_text() for p in out.glob(".train/*/checkpoint_manager_snapshot.json"))


def weights(out: Path) -> bytes:
    return (out / "transformer" / WEIGHTS).read_bytes()


def lose_one_at_work(cluster: Cluster) -> None:
    """Takes away a node on which a worker of the training is."""
    actors = ray._private.state.actors().values()
    at_work = {
        a["Address"]["NodeID"] for a in actors if a["State"] == "ALIVE" and a["ActorClassName"] == "RayTrainWorker"
    }
    node = next(n for n in cluster.worker_nodes if n.node_id in at_work)
    cluster.remove_node(node, allow_graceful=False)


def test_it_goes_on_elsewhere_or_ends_with_a_line_and_its_weights_are_those_of_no_loss(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fits, "PLACED_S", 60.0)  # longer than Ray needs to find that a node is gone
    whole = Training(cluster, tmp_path / "whole", capsys)
    whole.run()
    assert whole.error is None
    lost = Training(cluster, tmp_path / "lost", capsys)
    lost.start()
    lost.await_(lambda: kept(tmp_path / "lost"))
    lose_one_at_work(cluster)
    lost.await_(lambda: lost.says("continues after step"))
    lose_one_at_work(cluster)
    lost.await_(lambda: lost.says("places of 3 workers, a CPU each (the cluster has 2) are lost: it waits"))
    lost.join(300)
    assert "no place for 3 workers, a CPU each (the cluster has 2) for 60 s; add a node" in str(lost.error)
    cluster.add_node(num_cpus=2, object_store_memory=STORE)
    cluster.wait_for_nodes()
    again = Training(cluster, tmp_path / "lost", capsys)
    again.run()
    assert again.error is None and again.says("continues after step")
    assert weights(tmp_path / "lost") == weights(tmp_path / "whole")
