"""A plan is read by who computes from it, and by nobody once its images are there."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tiny_run import GENERATED, INCREMENT, TinyRun

from raydistill.errors import CorruptArtifact
from raydistill.stages import runner
from raydistill.stages.runner import serial

SAMPLE = f"sample {GENERATED}"
UP_TO_IT = ("encode", "group", "cluster", f"plan {GENERATED}", SAMPLE)


@pytest.fixture
def tiny(tmp_path: Path) -> TinyRun:
    run = TinyRun(tmp_path / "run")
    run.finish((*UP_TO_IT, INCREMENT))
    return run


def lose_plan(tiny: TinyRun) -> None:
    shutil.rmtree(Path(tiny.sealed(f"plan {GENERATED}").artifact.location.uri, "data"))


@pytest.mark.parametrize("name", [SAMPLE, INCREMENT])
def test_what_is_finished_is_found_without_its_plan(tiny: TinyRun, name: str) -> None:
    lose_plan(tiny)
    outcome = runner.run(tiny.stage(name), serial)
    assert outcome.reused and tiny.stage(name).total == outcome.manifest.rows == 6


@pytest.mark.parametrize("name", [SAMPLE, INCREMENT])
def test_what_is_not_reads_it_before_it_computes_anything(tiny: TinyRun, name: str) -> None:
    whole = runner.run(tiny.stage(name), serial).manifest
    kept = [tiny.stage(name).items(key).table for key in tiny.stage(name).keys]
    assert sum(map(len, kept)) == 6 and [record.key for record in whole.records] == list(tiny.stage(name).keys)
    lose_plan(tiny)
    shutil.rmtree(tiny.stage(name).artifact.location.uri)
    with pytest.raises(CorruptArtifact, match=r"plan: .* is missing; delete .* and run the same command again"):
        runner.run(tiny.stage(name), serial)
    assert not tiny.stage(name).artifact.records()
