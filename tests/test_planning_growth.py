"""Curricula are planned: their increments, and what is trained between them, are those of a real one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from curricula import EVALUATE, LEARNS, fitted_here, prepared
from curricula import begun as begun  # the fixture
from tiny_run import REAL

from raydistill.outlook import Outlook
from raydistill.pipeline import curriculum, job
from raydistill.pipeline.steps import Steps
from raydistill.planning.ahead import expected, facts_of
from raydistill.planning.workload import works
from raydistill.progress import listening
from raydistill.stages.runner import serial

KINDS = ("plan", "sample", "judge", "increment")


@pytest.mark.parametrize(
    ("draws", "more", "back"),
    [  # through the generator two increments of two candidates in two classes are led, each at one of two steps
        (2, {"lgd": {"candidates": 2}, "learnability": {"through_denoiser": True}}, 2 * 2 * 2 * 2),
        (1, {"lgd": {"candidates": 1, "seed_method": REAL}, "learnability": {"space": "latent"}}, 0),
        (1, {"lgd": {"candidates": 1}, "learnability": {"scale": 0.0}}, 0),
    ],
    ids=["images are judged", "latents are judged", "nobody judges"],
)
def test_its_stages_and_calls_are_those_of_a_real_one(
    begun: Path, tmp_path: Path, draws: int, more: dict[str, Any], back: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`back`: images at whose calls the network is gone through backwards as well."""
    monkeypatch.setattr(curriculum, "learned", lambda *_: None)  # so few images teach it more or less
    root, heard = shutil.copytree(begun, tmp_path / "run"), Outlook()
    short = {"full_epochs": 1, "protocol": LEARNS | {"visits": 40}}
    p = prepared(root, ipc=3, seeds={"generation": draws}, evaluate=EVALUATE | short, **more)
    planned = {w.stage: w for w in works(p.config, p.variants, facts_of(p)) if w.stage.split()[0] in KINDS}
    with fitted_here(), listening(heard):
        steps = Steps(p, serial)
        sets = [curriculum.grow(steps, job.redrawn(p.variants[0], draw))[0] for draw in range(draws)]
    real: dict[str, int] = {}
    for s in heard.stages:
        real[s.stage] = real.get(s.stage, 0) + s.total
    assert {name: w.total for name, w in planned.items()} == {s: n for s, n in real.items() if s.split()[0] in KINDS}
    assert all(w.parts == draws for w in planned.values() if w.stage != "judge reference")
    flops = facts_of(p).denoise
    assert flops is not None
    asked = sum(w.costs.get("denoise", 0.0) for w in planned.values()) / flops.flops
    assert asked == pytest.approx(sum(s.numbers().nfe.mean * s.rows for s in sets) + back)
    names = [e.stage for e in expected(p, "report")]
    assert [n for n in names if n in planned] == list(planned) and names[-1] == "evaluate"
    assert [e.stage for e in expected(p, "plan")][-1] == next(iter(planned))
