"""A cluster that grows and shrinks in the middle of a stage: its pools come to use nodes, and give them back."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pytest
import ray
from clusters import STORE, give_notice
from ray.cluster_utils import Cluster

from raydistill.config import Pool
from raydistill.distributed import dispatch, leaving, pool, runtime
from raydistill.distributed.executors import stream
from raydistill.distributed.node_log import node_id
from raydistill.models import loaded
from raydistill.models.device import placement
from raydistill.models.vae import VaeSpec
from raydistill.stages.runner import Stage
from raydistill.store.artifact import Record

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]
UNITS = [f"unit-{i:03d}" for i in range(200)]
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import it


@dataclass(frozen=True)
class Slow:
    """Units take a while, until the file `hurry` is there; "held" ones wait for it, and all for who is `awaited`."""

    hurry: Path

    def load(self, item: Any) -> Any:
        return item

    def open(self) -> Callable[[Any], Record]:
        def finish(key: str) -> Record:
            self.wait_for_who_is_awaited()
            if not self.hurry.exists():
                time.sleep(0.5)
            while key == "held" and not self.hurry.exists():
                time.sleep(0.1)
            return Record(key, "", 1, 0, "", "", "cpu")

        return finish

    def wait_for_who_is_awaited(self) -> None:
        awaited = self.hurry.with_name("awaited")
        with suppress(FileNotFoundError):
            if node_id().endswith(awaited.read_text()):
                awaited.unlink()
        while awaited.exists():
            time.sleep(0.1)


@dataclass(frozen=True)
class Holding:
    """Says which process holds which VAE, by its address: another stage is another `open`."""

    def load(self, item: Any) -> Any:
        return item

    def open(self) -> Callable[[Any], Record]:
        held = loaded.vae(VaeSpec(None), placement(Pool()))
        return lambda key: Record(key, f"{os.getpid()} {id(held)}", 1, 0, "", "", "cpu")


def stage(tmp_path: Path, style: Literal["actors", "stream"], keys: list[str], **asked: Any) -> Stage:
    section = Pool(num_cpus=1, **asked)
    return Stage("sample", "units", None, keys, str, Slow(tmp_path / "hurry"), len(keys), style, section)  # type: ignore[arg-type]


def joins(cluster: Cluster) -> Any:
    node = cluster.add_node(num_cpus=2, object_store_memory=STORE)
    cluster.wait_for_nodes()
    return node


def await_first_unit_of(node: Any, tmp_path: Path) -> None:
    """Nobody else goes on before: on a loaded machine its actors may start when all units are done."""
    (tmp_path / "name").write_text(node.node_id)
    (tmp_path / "name").rename(tmp_path / "awaited")


def test_actors_come_to_use_a_node_that_joins_and_outlive_its_loss(cluster: Cluster, tmp_path: Path) -> None:
    records = dispatch.actors(stage(tmp_path, "actors", UNITS), UNITS)
    done = [next(records)]
    await_first_unit_of(new := joins(cluster), tmp_path)
    for record, node in records:
        done.append((record, node))
        if new in cluster.worker_nodes and new.node_id in node:
            cluster.remove_node(new, allow_graceful=False)
            (tmp_path / "hurry").touch()
    assert new.node_id in {node.partition("/")[2] for _, node in done}
    assert sorted(record.key for record, _ in done) == UNITS


@pytest.mark.slow
def test_a_node_that_is_about_to_go_is_given_no_more_units(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """But for those that it is at when the notice comes; nobody waits for it."""
    monkeypatch.setattr(leaving, "PROBED_EVERY_S", 0.0)
    await_first_unit_of(new := joins(cluster), tmp_path)
    before, after = [], []
    for record, node in dispatch.actors(stage(tmp_path, "actors", UNITS), UNITS):
        (after if new.node_id in leaving.draining() else before).append((record.key, node.partition("/")[2]))
        if not after and sum(node_id == new.node_id for _, node_id in before) == 4:
            give_notice(cluster, new.node_id, 60)
        if len(after) == 12:
            (tmp_path / "hurry").touch()
    assert sorted(key for key, _ in before + after) == UNITS
    assert sum(node_id == new.node_id for _, node_id in after) <= 2
    assert f"sample        node {new.node_id[:12]} is about to go in" in capsys.readouterr().err


def test_nodes_without_work_are_given_back_while_the_last_unit_runs(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    joins(cluster)
    monkeypatch.setattr(pool, "IDLE_S", 1.0)
    some = ["held", *UNITS[:12]]
    done: list[tuple[Record, str]] = []
    thread = threading.Thread(target=lambda: done.extend(dispatch.actors(stage(tmp_path, "actors", some), some)))
    thread.start()
    try:
        await_(lambda: ray.available_resources()["CPU"] == 1.0, "three actors work, and a CPU is left")
        await_(lambda: ray.available_resources()["CPU"] == 3.0, "all but the one that works have ended")
        assert thread.is_alive()
    finally:
        (tmp_path / "hurry").touch()
        thread.join(60)
    assert sorted(record.key for record, _ in done) == sorted(some)


def test_as_many_actors_as_were_asked_for(cluster: Cluster, tmp_path: Path) -> None:
    team = pool.Team(stage(tmp_path, "actors", UNITS, actors=1), len(UNITS))
    team.fill(len(UNITS))
    joins(cluster)
    for _ in range(3):
        team.wait()
        team.fill(len(UNITS))
    assert (team.size, len(team.idle) + len(team.starting)) == (1, 1)
    team.end()


def test_a_warm_actor_keeps_its_networks_for_the_next_stage(cluster: Cluster, tmp_path: Path) -> None:
    some = replace(stage(tmp_path, "actors", ["a", "b"]), work=Holding())
    first, second = ({record.file for record, _ in dispatch.actors(some, ["a", "b"])} for _ in range(2))
    assert first == second and len(first) == 1


def test_two_jobs_that_take_half_each_both_go_on(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither waits for the end of the other: each has units done while all actors of the other hold their CPUs."""
    cluster.add_node(num_cpus=4, object_store_memory=STORE)
    cluster.wait_for_nodes()
    monkeypatch.setattr(runtime, "_share", 0.5)
    jobs = [dispatch.actors(stage(tmp_path, "actors", UNITS), UNITS) for _ in range(2)]
    done = [[next(job)[0].key for _ in range(6)] for job in jobs]
    await_(lambda: ray.available_resources().get("CPU", 0.0) == 2.0, "two actors of each, and a CPU that each leaves")
    done[0] += [next(jobs[0])[0].key for _ in range(6)]
    (tmp_path / "hurry").touch()
    for keys, job in zip(done, jobs, strict=True):
        assert sorted(keys + [record.key for record, _ in job]) == UNITS


def test_encode_has_an_actor_that_reads_itself_where_the_share_is_one_cpu(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other half is another job's, which holds it all the while."""
    monkeypatch.setattr(runtime, "_share", 0.5)
    other = pool.start(Pool(num_cpus=1))
    ray.get(other.up.remote())
    some = UNITS[:4]
    assert sorted(record.key for record, _ in stream(stage(tmp_path, "stream", some), some)) == some
    ray.kill(other)


def test_idle_actors_beyond_the_share_are_ended(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the cluster has lost nodes on which there was none of them."""
    joins(cluster)
    team = pool.Team(stage(tmp_path, "actors", UNITS), len(UNITS))
    while len(team.idle) < 3:
        team.fill(len(UNITS))
        team.wait()
    monkeypatch.setattr(runtime, "_share", 0.5)
    team.fill(len(UNITS))
    assert (team.size, team.workers) == (1, 1)
    team.end()


@pytest.mark.slow
def test_ray_datas_pool_comes_to_use_a_node_that_joins(cluster: Cluster, tmp_path: Path) -> None:
    records = stream(stage(tmp_path, "stream", UNITS), UNITS)
    done = [next(records)]
    await_first_unit_of(new := joins(cluster), tmp_path)
    for record, node in records:
        done.append((record, node))
        if new.node_id in node:
            (tmp_path / "hurry").touch()
    assert new.node_id in {node.partition("/")[2] for _, node in done}
    assert sorted(record.key for record, _ in done) == UNITS


def await_(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)
