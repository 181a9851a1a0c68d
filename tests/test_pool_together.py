"""Units of several stages in one pool of actors: no stage keeps another waiting, and one that fails ends alone."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from raydistill.config import Pool, RayConfig
from raydistill.distributed import dispatch, runtime
from raydistill.errors import OutOfMemory
from raydistill.stages.runner import Stage
from raydistill.store.artifact import Record

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]


@dataclass(frozen=True)
class Meeting:
    """Each unit says that it has begun and waits until `waits_for` others have: none is done alone."""

    folder: Path
    name: str
    waits_for: int
    fails: bool = False

    def load(self, item: Any) -> Any:
        return item

    def open(self) -> Callable[[Any], Record]:
        def finish(key: str) -> Record:
            if self.fails:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")
            (self.folder / f"{self.name}-{key}").touch()
            while len(list(self.folder.iterdir())) < self.waits_for:
                time.sleep(0.05)
            return Record(key, self.name, 1, 0, "", "", "cpu")

        return finish


@pytest.fixture(scope="module", autouse=True)
def cluster() -> None:
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    runtime.ensure_ray(RayConfig())


def stage(work: Meeting, keys: list[str]) -> Stage:
    section = Pool(num_cpus=1, actors=2, deadline_s=120)
    return Stage("sample", "units", None, keys, str, work, len(keys), "actors", section)  # type: ignore[arg-type]


def test_two_stages_of_one_unit_keep_two_actors_busy_at_once(tmp_path: Path) -> None:
    """One after the other, the first would wait for the second for ever."""
    stages = [stage(Meeting(tmp_path, name, 2), ["a"]) for name in ("one", "two")]
    finished = [(s, result) for s, result in dispatch.together([(s, s.keys) for s in stages])]
    assert {id(s) for s, _ in finished} == {id(s) for s in stages}
    assert {result[0].file for _, result in finished if isinstance(result, tuple)} == {"one", "two"}


def test_a_full_gpu_ends_its_own_stage_at_once_and_no_other(tmp_path: Path) -> None:
    full, well = stage(Meeting(tmp_path, "full", 0, True), ["a", "b", "c"]), stage(Meeting(tmp_path, "well", 0), ["a"])
    ended = list(dispatch.together([(full, full.keys), (well, well.keys)]))
    errors = [result for s, result in ended if s is full]
    assert len(ended) == 2 and isinstance(errors[0], OutOfMemory)
    assert str(errors[0]) == "sample: out of memory: CUDA out of memory; lower sample.batch"
