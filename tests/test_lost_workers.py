"""Workers that hang, are paused, die or compute wrong bytes: the work is done all the same, or a list is left."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import ray
from artifacts import at

from raydistill.config import Pool, RayConfig
from raydistill.distributed import attempts, dispatch, executors, runtime
from raydistill.distributed.attempts import ATTEMPTS
from raydistill.errors import DeterminismFault, StageFailed
from raydistill.stages.runner import Stage
from raydistill.store.artifact import Record

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]
LONG_S = 10_000.0


@dataclass(frozen=True)
class Faulty:
    """The unit "bad" goes wrong `how`, the first time only or `always`; each try at a unit leaves a file."""

    folder: Path
    how: Literal["hang", "pause", "die", "start", "bytes", "raise", "slow", "nothing"]
    always: bool = False

    def load(self, item: Any) -> Any:
        return item

    def open(self) -> Callable[[Any], Record]:
        if self.how == "start":
            note(self.folder, "start")
            os._exit(1)

        def finish(key: str) -> Record:
            time_of = note(self.folder, key)
            if key == "bad" and (self.always or time_of == 1):
                if self.how == "pause":
                    os.kill(os.getpid(), signal.SIGSTOP)
                if self.how == "die":
                    os._exit(1)
                if self.how == "raise":
                    raise OSError("the store hiccuped")
                while self.how == "hang":
                    time.sleep(0.1)
            if self.how == "slow":
                time.sleep(0.2)
            sha = f"{key}{time_of if self.how == 'bytes' else ''}"
            return Record(key, f"data/{sha}", 1, 0, sha, "", "cpu")

        return finish


def note(folder: Path, name: str) -> int:
    """The how manieth that asks under this name."""
    for i in range(1, 100):
        try:
            (folder / f"{name}.{i}").touch(exist_ok=False)
            return i
        except FileExistsError:
            continue
    raise AssertionError(name)


@pytest.fixture(scope="module", autouse=True)
def cluster() -> None:
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    runtime.ensure_ray(RayConfig())


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "SLOW_S", 0.5)


def stage(work: Faulty, deadline_s: float = LONG_S, keys: tuple[str, ...] = ("b", "c", "bad")) -> Stage:
    section = Pool(num_cpus=1, actors=2, deadline_s=deadline_s)
    artifact = at(work.folder / "run")
    return Stage("sample", "units", artifact, keys, str, work, len(keys), "actors", section)


def tries(folder: Path) -> dict[str, int]:
    names = [p.stem for p in folder.iterdir() if p.is_file()]
    return {name: names.count(name) for name in names}


def test_what_is_computed_again_comes_once(tmp_path: Path) -> None:
    some = stage(Faulty(tmp_path, "nothing"))
    records = [record.key for record, _ in dispatch.actors(some, some.keys, recompute=1.0)]
    assert sorted(records) == sorted(some.keys) and set(tries(tmp_path).values()) == {2}


@pytest.mark.parametrize(("spread", "how"), [(dispatch.actors, "hang"), (executors.tasks, "pause")])
def test_what_one_worker_does_not_finish_another_one_does(tmp_path: Path, spread: Any, how: Any) -> None:
    """Nothing but the second try could end it: the deadline is hours away."""
    some = stage(Faulty(tmp_path, how))
    records = [record for record, _ in spread(some, some.keys)]
    assert sorted(r.key for r in records) == sorted(some.keys), "each once"
    assert tries(tmp_path) == {"bad": 2, "b": 1, "c": 1}


def test_a_unit_that_fails_without_a_death_is_tried_again(tmp_path: Path) -> None:
    some = stage(Faulty(tmp_path, "raise"), keys=("bad",))
    assert [record.key for record, _ in executors.tasks(some, some.keys)] == ["bad"]
    assert tries(tmp_path) == {"bad": 2}


def test_a_unit_that_always_fails_has_as_many_tries_as_the_line_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "SLOW_S", LONG_S)
    some = stage(Faulty(tmp_path, "raise", always=True), keys=("bad",))
    with pytest.raises(StageFailed, match=r"sample: 1 of 1 units failed 3 times each: bad .*the store hiccuped"):
        list(executors.tasks(some, some.keys))
    assert tries(tmp_path) == {"bad": ATTEMPTS}


@pytest.mark.parametrize(("spread", "how"), [(executors.stream, "slow"), (executors.tasks, "hang")])
def test_who_stops_listening_ends_the_work(tmp_path: Path, spread: Any, how: Any) -> None:
    """A process that lives on, such as a notebook's, gets its CPUs back, and no unit begins any more."""
    keys = ("b", "bad", *(f"c{i:02d}" for i in range(60)))
    some = stage(Faulty(tmp_path, how, always=True), keys=keys)
    before = ray.available_resources().get("CPU", 0)  # what an earlier test has paused holds one still
    finished = spread(some, some.keys)
    next(finished)
    finished.close()
    deadline = time.monotonic() + 60
    while ray.available_resources().get("CPU", 0) < before:
        assert time.monotonic() < deadline, "something still holds CPUs"
        time.sleep(0.1)
    assert len(tries(tmp_path)) < len(keys)


@pytest.mark.parametrize("spread", [dispatch.actors, executors.tasks])
def test_a_unit_on_which_every_worker_dies_is_given_up_and_named(
    tmp_path: Path, spread: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "SLOW_S", LONG_S)
    some = stage(Faulty(tmp_path, "die", always=True))
    records = []
    with pytest.raises(StageFailed) as caught:
        for record, _ in spread(some, some.keys):
            records.append(record.key)
    assert sorted(records) == ["b", "c"], "what can be done is done"
    assert str(caught.value).startswith("sample: 1 of 3 units failed 3 times each: bad (")
    assert len(caught.value.__notes__) == ATTEMPTS == tries(tmp_path)["bad"]


@pytest.mark.slow
@pytest.mark.parametrize("spread", [dispatch.actors, executors.tasks, executors.stream])
def test_at_its_deadline_a_unit_is_taken_from_who_hangs(tmp_path: Path, spread: Any) -> None:
    """Alone it has no other to be compared with: only the deadline tells that it hangs."""
    some = stage(Faulty(tmp_path, "hang"), deadline_s=30, keys=("bad",))
    assert [record.key for record, _ in spread(some, some.keys)] == ["bad"]
    assert tries(tmp_path) == {"bad": 2}


def test_a_worker_that_dies_as_it_starts_ends_the_stage_after_a_few_tries(tmp_path: Path) -> None:
    some = stage(Faulty(tmp_path, "start"), keys=("b",))
    with pytest.raises(StageFailed, match=r"sample: 1 of 1 units failed 3 times each: b .* is in logs/error.txt"):
        list(dispatch.actors(some, some.keys))
    assert tries(tmp_path) == {"start": ATTEMPTS}


def test_wrong_bytes_are_found_by_the_second_who_computes_them(tmp_path: Path) -> None:
    some = stage(Faulty(tmp_path, "bytes"))
    with pytest.raises(DeterminismFault, match=r"one of the two computes wrong; .*, delete that folder"):
        list(dispatch.actors(some, some.keys, recompute=1.0))
