"""The size of a pool, without Ray: what a team starts and ends as the cluster changes, and what it leaves warm."""

from __future__ import annotations

import faulthandler
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from raydistill.config import Pool, load
from raydistill.distributed import pool, runtime
from raydistill.distributed.resources import Reservation
from raydistill.errors import BadInput


@dataclass
class Pretended:
    """A cluster by its resources, and the actors that are alive on it."""

    resources: dict[str, float]
    joined: bool = True
    alive: list[Any] = field(default_factory=list)

    def start(self, section: Pool) -> Any:
        actor = SimpleNamespace(up=SimpleNamespace(remote=object), section=section)
        self.alive.append(actor)
        return actor

    def warm(self, count: int, **reserved: Any) -> None:
        section = Pool(**reserved)
        pool._warm[pool._shape(section)] = [pool.Idle(self.start(section), 0.0) for _ in range(count)]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Pretended:
    pretended = Pretended({"CPU": 8.0})
    monkeypatch.setattr(ray, "cluster_resources", lambda: pretended.resources)
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True}] * 2)
    monkeypatch.setattr(ray, "kill", pretended.alive.remove)
    monkeypatch.setattr(runtime, "_local", False)
    monkeypatch.setattr(pool, "may_grow", lambda: pretended.joined)
    monkeypatch.setattr(pool, "start", pretended.start)
    monkeypatch.setattr(pool, "_session", lambda: "one")
    monkeypatch.setattr(pool, "_warm", {})
    return pretended


def team(units: int, **section: Any) -> pool.Team:
    return pool.Team(SimpleNamespace(name="sample", pool=Pool(**section)), units)  # type: ignore[arg-type]


def come_up(some: pool.Team) -> None:
    for actor in some.starting.values():
        some.rest(actor, "")
    some.starting.clear()


def test_a_team_that_started_with_one_actor_grows_with_the_cluster(cluster: Pretended) -> None:
    some = team(100, num_gpus=1)
    some.fill(100)
    assert len(cluster.alive) == 1, "no GPU is there, and one actor says what is lacking"
    cluster.resources = {"CPU": 72.0, "GPU": 8.0}
    some.fill(100)
    assert len(cluster.alive) == 8


def test_no_more_are_started_than_units_wait(cluster: Pretended) -> None:
    some = team(100, num_cpus=1)
    some.fill(3)
    assert len(cluster.alive) == 3


def test_a_number_that_was_asked_for_stays(cluster: Pretended) -> None:
    some = team(100, actors=2, num_cpus=1)
    some.fill(100)
    cluster.resources = {"CPU": 64.0}
    some.fill(100)
    assert len(cluster.alive) == 2


def test_places_that_have_gone_or_that_no_unit_needs_are_waited_for_no_longer(cluster: Pretended) -> None:
    some = team(100, num_cpus=1)
    some.fill(100)
    assert len(some.starting) == 7
    cluster.resources = {"CPU": 3.0}
    some.fill(100)
    assert len(cluster.alive) == len(some.starting) == 2
    some.fill(0)
    assert cluster.alive == []


@pytest.mark.parametrize(("joined", "left"), [(True, 0), (False, 7)])
def test_who_is_idle_for_long_lets_a_joined_cluster_have_its_node(
    cluster: Pretended, monkeypatch: pytest.MonkeyPatch, joined: bool, left: int
) -> None:
    cluster.joined = joined
    some = team(100, num_cpus=1)
    some.fill(100)
    come_up(some)
    some.fill(0)
    assert len(some.idle) == 7
    monkeypatch.setattr(pool, "IDLE_S", -1.0)
    some.fill(0)
    assert len(some.idle) == len(cluster.alive) == left


def test_who_waits_on_a_node_that_is_about_to_go_is_given_no_unit(
    cluster: Pretended, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also who came to wait there before the notice: the next unit would be lost with the node."""
    some, going = team(2, num_cpus=1), set[str]()
    some.fill(2)
    monkeypatch.setattr(some.leaving, "has", lambda node: node in going)
    for ref, node in zip(list(some.starting), ("stays", "goes"), strict=True):
        some.rest(some.starting.pop(ref), node)
    going.add("goes")
    assert some.ready() and [one.node for one in some.idle] == ["stays"] and len(cluster.alive) == 1
    going.add("stays")
    assert not some.ready() and not some.idle and not cluster.alive


def test_a_fit_takes_back_only_what_it_needs(cluster: Pretended) -> None:
    cluster.joined = False
    cluster.warm(4, num_cpus=1)
    students = Reservation("evaluate", 0, num_cpus=1.0, num_gpus=0.0)
    pool.make_room(students, 3)
    assert len(cluster.alive) == 4, "three students and the spare CPU have room beside them"
    pool.make_room(students, 5)
    assert len(cluster.alive) == 2


@pytest.mark.parametrize("up", [True, False])
def test_released_none_is_warm(cluster: Pretended, monkeypatch: pytest.MonkeyPatch, up: bool) -> None:
    """Also where Ray has ended, and they with it."""
    monkeypatch.setattr(ray, "is_initialized", lambda: up)
    cluster.warm(2, num_cpus=1)
    cluster.warm(1, num_cpus=0.5)
    pool.release()
    assert len(cluster.alive) == (0 if up else 3) and not team(9, num_cpus=1).idle


def test_a_share_of_a_gpu_is_in_the_way_of_whoever_needs_a_whole_one(cluster: Pretended) -> None:
    cluster.joined, cluster.resources = False, {"CPU": 8.0, "GPU": 2.0}
    cluster.warm(2, num_cpus=0.5, num_gpus=0.5)
    pool.make_room(Reservation("evaluate", 0, num_cpus=1.0, num_gpus=1.0), 1)
    assert len(cluster.alive) == 1


def test_a_fit_on_a_joined_cluster_gets_all_of_it(cluster: Pretended) -> None:
    cluster.warm(4, num_cpus=1)
    pool.make_room(Reservation("evaluate", 0, num_cpus=1.0, num_gpus=0.0), 1)
    assert cluster.alive == []


def test_the_next_stage_takes_over_all_that_reserve_the_same_and_gives_work_to_as_many_as_it_may(
    cluster: Pretended,
) -> None:
    cluster.warm(4, num_cpus=1)
    some = team(100, actors=2, num_cpus=1)
    assert (len(some.idle), some.ready()) == (4, True)
    some.running = dict.fromkeys(range(2))
    assert not some.ready()


def test_an_actors_clock_knows_the_longest_deadline() -> None:
    with pytest.raises(BadInput, match=r"encode.deadline_s: Input should be less than or equal to 1000000000"):
        load(overrides=["encode.deadline_s=1e10"])
    faulthandler.dump_traceback_later(load(overrides=["encode.deadline_s=1000000000"]).encode.deadline_s)
    faulthandler.cancel_dump_traceback_later()
