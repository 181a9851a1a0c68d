"""Students on a cluster that grows while they are trained, and loses a node: fits take what there is."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_sweep
import torch
from clusters import STORE, give_notice
from ray.cluster_utils import Cluster
from tiny_run import TinyRun, config

from raydistill.config import RayConfig
from raydistill.distributed import students
from raydistill.stages.evaluation.image_sets import SetRef
from raydistill.stages.evaluation.trainer import Training, body

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]
SEEDS = 6
LONG = {"visits": 8_000, "batch": 8, "lr": 0.05, "image_size": 16, "evaluations": 4}


@pytest.fixture
def tiny(tmp_path: Path) -> TinyRun:
    run = TinyRun(tmp_path / "run")
    run.config = config(evaluate={"width": 8, "seeds": SEEDS, "protocol": LONG})
    return run


class Evaluation(threading.Thread):
    """The students of a run, trained beside the test."""

    def __init__(self, tiny: TinyRun, address: str) -> None:
        super().__init__()
        self.tiny, self.config = tiny, tiny.config.model_copy(update={"ray": RayConfig(address=address)})
        self.every: list[Training] = []

    def run(self) -> None:
        whole = SetRef("full data", self.tiny.train.digest, len(self.tiny.train), None)
        self.every, _ = students.evaluate(self.config, self.tiny.run, [whole], self.tiny.train, self.tiny.test)

    def committed(self) -> int:
        return len(list(Path(self.tiny.root).glob("evaluations/*/commits/*.json")))

    def nodes(self) -> set[str]:
        """Ids of the nodes on which a training was committed."""
        files = (Path(self.tiny.root) / "logs" / "placement").glob("evaluations-*.json")
        return {node.partition("/")[2] for f in files for node in json.loads(f.read_text()).values()}


def await_(true: Callable[[], bool], thread: threading.Thread) -> None:
    while not true():
        assert thread.is_alive()
        time.sleep(0.1)


def test_they_come_to_use_a_node_that_joins(cluster: Cluster, tiny: TinyRun) -> None:
    evaluation = Evaluation(tiny, cluster.address)
    evaluation.start()
    await_(lambda: evaluation.committed() >= 1, evaluation)
    new = cluster.add_node(num_cpus=2, object_store_memory=STORE)
    await_(lambda: new.node_id in evaluation.nodes(), evaluation)
    evaluation.join(600)
    assert not evaluation.is_alive() and len(evaluation.every) == SEEDS == evaluation.committed()
    assert all(t.artifact.manifest() is not None for t in evaluation.every)
    assert not list(Path(tiny.root).glob("checkpoints/*.recall"))


def test_they_go_on_elsewhere_from_their_last_tests_when_a_node_is_taken_away(
    cluster: Cluster, tiny: TinyRun, capsys: pytest.CaptureFixture[str]
) -> None:
    new = cluster.add_node(num_cpus=2, object_store_memory=STORE)
    cluster.wait_for_nodes()
    evaluation = Evaluation(tiny, cluster.address)
    evaluation.start()
    await_(lambda: evaluation.committed() >= 1, evaluation)
    give_notice(cluster, new.node_id, 6)
    time.sleep(6)
    cluster.remove_node(new, allow_graceful=False)
    cluster.add_node(num_cpus=2, object_store_memory=STORE)  # as an autoscaler does: Ray Train waits for it
    evaluation.join(600)
    assert not evaluation.is_alive() and len(evaluation.every) == SEEDS == evaluation.committed()
    assert f"node {new.node_id[:12]} is about to go in" in capsys.readouterr().err


def test_fewer_of_them_go_on_when_a_node_is_lost_for_good(
    cluster: Cluster,
    tiny: TinyRun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And more again when one comes; the scores are those of one process without Ray."""
    monkeypatch.setattr(students, "PLACED_S", 5.0)
    new = cluster.add_node(num_cpus=2, object_store_memory=STORE)
    cluster.wait_for_nodes()
    evaluation = Evaluation(tiny, cluster.address)
    evaluation.start()
    await_(lambda: evaluation.committed() >= 1, evaluation)
    cluster.remove_node(new, allow_graceful=False)
    said: list[str] = []
    await_(lambda: said.append(capsys.readouterr().err) or "the cluster has lost places: " in "".join(said), evaluation)
    cluster.add_node(num_cpus=2, object_store_memory=STORE)
    evaluation.join(600)
    assert not evaluation.is_alive() and len(evaluation.every) == SEEDS == evaluation.committed()
    monkeypatch.setattr(students, "fit", tiny_sweep.fit)
    alone = TinyRun(tmp_path / "alone")
    alone.config = tiny.config
    one, threads = Evaluation(alone, ""), torch.get_num_threads()
    torch.set_num_threads(tiny.config.evaluate.threads)  # as a worker does: sums round by their number
    one.run()
    torch.set_num_threads(threads)
    assert [body(t) for t in evaluation.every] == [body(t) for t in one.every]
