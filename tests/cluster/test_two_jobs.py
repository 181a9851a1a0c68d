"""Two jobs, each a process of its own with half of one cluster: neither ever holds more, and both end as one alone."""

from __future__ import annotations

import subprocess
import threading
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from clusters import STORE, head_alone
from ray._private.internal_api import node_stats
from ray.cluster_utils import Cluster
from running import product, start

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]
CPUS = 4
WIDE = ["encode.actors=0", "sample.actors=0", "evaluate.workers=0", "ray.nodes_deadline_s=600"]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with head_alone() as started:
        started.add_node(num_cpus=CPUS, object_store_memory=STORE)
        started.wait_for_nodes()
        yield started


class Meter(threading.Thread):
    """Asks every raylet again and again which CPUs its workers hold for which job. `seen`: CPUs by job, each time."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(daemon=True)
        self.addresses = [
            (n["NodeManagerAddress"], n["NodeManagerPort"]) for n in cluster.global_state.node_table() if n["Alive"]
        ]
        self.seen: list[dict[str, float]] = []
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.02):
            self.seen.append(self.look())

    def look(self) -> dict[str, float]:
        held: defaultdict[str, float] = defaultdict(float)
        for address, port in self.addresses:
            for worker in node_stats(address, port, include_memory_info=False).core_workers_stats:
                if worker.num_running_tasks or set(worker.actor_id) != {255}:  # one that waits for a task holds nothing
                    held[worker.job_id.hex()] += cpus(worker.used_resources)
        return {job: n for job, n in held.items() if n}


def cpus(held: object) -> float:
    """Of a worker; in a placement group they have its name, and once more with the number of the bundle."""
    names = [n for n in held if n == "CPU" or (n.startswith("CPU_group_") and n.count("_") == 2)]  # type: ignore[attr-defined]
    return sum(slot.allocation for n in names for slot in held[n].resource_slots)  # type: ignore[index]


def test_neither_of_two_jobs_that_take_half_each_ever_holds_more(
    cluster: Cluster, reference: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    runs, meter = [tmp_path / "one", tmp_path / "two"], Meter(cluster)
    meter.start()
    jobs = [start(run, "ray.share=0.5", *WIDE, RAY_ADDRESS=cluster.address) for run in runs]
    try:
        ends = [job.wait(timeout=600) for job in jobs]
    finally:
        meter.over.set()
        meter.join(30)
        for job in jobs:
            job.kill()
            job.wait()
    assert ends == [0, 0], "".join(run.with_suffix(".log").read_text()[-1500:] for run in runs)
    held = {job: max(at.get(job, 0.0) for at in meter.seen) for at in meter.seen for job in at}
    assert len(held) == 2 and max(held.values()) <= CPUS / 2 + 1e-6, held
    assert max(held.values()) == CPUS / 2, "and it was all taken"
    assert sum(len(at) == 2 for at in meter.seen) > 20, "side by side"
    assert product(runs[0]) == product(runs[1])
    assert product(runs[0]) == product(reference[0])
