"""What a job takes of a cluster that it shares with others: never more than its share, and always one worker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import ray

from raydistill.distributed import runtime
from raydistill.distributed.executors import Unread
from raydistill.distributed.resources import Reservation, Room

CPUS = [1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 7.5, 64.0]
EACH = [0.25, 0.5, 0.7, 1.0, 2.0]


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes this process a job that may take a share of a cluster of two nodes."""

    def of(share: float, cpus: float, gpus: float = 0.0) -> None:
        monkeypatch.setattr(runtime, "_share", share)
        monkeypatch.setattr(runtime, "_local", False)
        monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": cpus, "GPU": gpus})
        monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True}] * 2)

    return of


@pytest.mark.parametrize("cpus", CPUS)
@pytest.mark.parametrize("num_cpus", EACH)
@pytest.mark.parametrize("asked", [0, 1, 5])
def test_actors_and_their_readers_keep_to_it(shared: Any, cpus: float, num_cpus: float, asked: int) -> None:
    shared(0.5, 2 * cpus)
    actors = runtime.fitting(Reservation("encode", asked, num_cpus, 0.0), 1, 1000)
    readers = runtime.room().readers(actors, num_cpus)
    assert actors * num_cpus + readers <= cpus + 1e-6 or (actors, readers) == (1, 0)
    assert actors <= (asked or 1000) and (readers > 0 or cpus < 1 + num_cpus), "a reader wherever there is room for one"


@pytest.mark.parametrize("cpus", CPUS)
@pytest.mark.parametrize("num_cpus", [*EACH, 0.0])
@pytest.mark.parametrize("units", [1, 2, 3, 50])
def test_tasks_and_theirs_keep_to_it(shared: Any, cpus: float, num_cpus: float, units: int) -> None:
    shared(0.5, 2 * cpus)
    helpers = runtime.room().helpers(num_cpus, units)
    tasks = min(units, max(1, runtime.in_flight(num_cpus) // (1 + helpers)))
    assert tasks * (1 + helpers) * num_cpus <= cpus + 1e-6 or (tasks, helpers) == (1, 0)


def test_without_a_share_nothing_is_left_but_a_cpu(shared: Any) -> None:
    shared(1.0, 8.0)
    assert runtime.in_flight(0.5) == 16 and not runtime.shares()
    assert runtime.fitting(Reservation("sample", 0, 1.0, 0.0), 1, 1000) == 7
    assert runtime.fitting(Reservation("sample", 20, 1.0, 0.0), 1, 1000) == 20, "an autoscaler is asked for them"


def test_a_share_of_a_gpu_is_for_those_who_ask_for_less_than_one(shared: Any) -> None:
    shared(0.5, 16.0, 3.0)
    fitting = {gpus: runtime.fitting(Reservation("sample", 0, 0.5, gpus), 1, 1000) for gpus in (0.25, 0.5, 0.6, 1.0)}
    assert fitting == {0.25: 6, 0.5: 3, 0.6: 1, 1.0: 1}


@pytest.mark.parametrize(
    ("cpus", "asked", "says"),
    [
        (2.0, 0, "sample.num_cpus=2 are more than this job's share of 1 CPUs; lower sample.num_cpus, or "
         "raise ray.share"),
        (6.0, 4, "sample.actors=4 x sample.num_cpus=2 are more than this job's share of 3 CPUs, of which 1 is left"),
        (4.0, 1, None),
    ],
)  # fmt: skip
def test_what_does_not_fit_into_it_is_said(shared: Any, capsys: Any, cpus: float, asked: int, says: str | None) -> None:
    shared(0.5, cpus)
    assert runtime.pool_size(Reservation("sample", asked, 2.0, 0.0), 1, 1000) == 1
    said = capsys.readouterr().err
    assert (says in said and "1 is what it takes" in said) if says else said == ""


@dataclass(frozen=True)
class Counting:
    def load(self, item: Any) -> Any:
        return [item]

    def open(self) -> Any:
        return len


def test_an_actor_that_nobody_reads_for_reads_itself() -> None:
    work: Any = Counting()
    assert Unread(work).load("abc") == "abc"
    assert Unread(work).open()("abc") == 1 == work.open()(work.load("abc"))


def test_room_of_those_who_reserve_nothing_has_no_end() -> None:
    assert Room(3.0, 0.0).tasks(0.0) == float("inf") and Room(3.0, 0.0).helpers(0.0, 1) == 0
