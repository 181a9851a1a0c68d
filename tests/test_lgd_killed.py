"""LGD on a real local Ray, killed inside its second increment: run again it ends with the same bytes."""

from __future__ import annotations

from pathlib import Path

import pytest
from running import product, start, traces
from test_kill import Faults, await_that, count, end, kill, said

LGD = [
    "method=lgd", "ipc=3", "lgd.increment=1", "lgd.candidates=2", "lgd.reference_epochs=5", "sample.batch=4",
    "sample.actors=1",  # units one after the other: between two commits there is time to kill
    "evaluate.protocol.visits=1500", "evaluate.protocol.image_size=16",
]  # fmt: skip


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_killed_in_the_second_increment_it_is_the_same_set(tmp_path: Path) -> None:
    """The driver with all of its cluster while half of the classes are there; then a worker in the other half."""
    whole, killed = tmp_path / "whole" / "run", tmp_path / "killed" / "run"
    for run in (whole, killed):
        run.parent.mkdir()
    assert end(start(whole, *LGD, verb="sample"), whole) == 0, said(whole)
    assert count(whole, "syntheses") == 1 + 4 + 4, "a batch of the seed, and four units an increment"

    process = start(killed, *LGD, verb="sample")
    await_that(lambda: count(killed, "syntheses") > 1 + 4, process, killed)
    kill(process, everything=True)
    assert 1 + 4 < count(killed, "syntheses") < 1 + 4 + 4, "it died inside the increment"
    faults = Faults(tmp_path / "faults", "syntheses:before_commit:classes-00003")
    assert end(start(killed, *LGD, verb="sample", **faults.env), killed) == 0, said(killed)
    assert faults.left() == [] and product(killed) == product(whole)

    before = traces(killed)
    assert end(start(killed, *LGD, verb="sample"), killed) == 0
    assert {name: t for name, t in traces(killed).items() if name.endswith((".parquet", ".safetensors"))} == {
        name: t for name, t in before.items() if name.endswith((".parquet", ".safetensors"))
    }
