"""The classifiers by which guidance leads images are planned, of a method's own guidance and of a curriculum's base."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from curricula import begun as begun  # the fixture
from curricula import fitted_here, grown, prepared
from samples import write_student
from test_guiding_networks import METHOD, asked
from test_guiding_networks import classified as classified  # the fixture

from raydistill.errors import BadInput
from raydistill.guidance.learnability import CURRENT, REFERENCE
from raydistill.guidance.networks import Networks
from raydistill.pipeline import curriculum, preflight
from raydistill.planning import networks, probe
from raydistill.planning.ahead import facts_of
from raydistill.planning.asking import GRADIENT
from raydistill.planning.facts import gather
from raydistill.planning.load import StageLoad
from raydistill.planning.making import sampling
from raydistill.planning.workload import works
from raydistill.state import Prepared

pytestmark = pytest.mark.usefixtures("classified")


def loads(p: Prepared) -> dict[str, StageLoad]:
    return {w.stage: w for w in works(p.config, p.variants, facts_of(p))}


def curriculum_of(root: Path, base: str, teacher: str, **more: Any) -> Prepared:
    own = {"base": base, **more.pop("lgd", {})}
    return prepared(root, lgd=own, teacher={"path": teacher}, classified={"micro_batch": 3}, **more)


@pytest.mark.parametrize("space", ["pixel", "latent"])
def test_the_images_that_classifiers_see_are_as_many_as_planned(
    begun: Path, tmp_path: Path, space: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each at the steps at which its guidance acts, there and back, of every candidate; so is what is decoded."""
    monkeypatch.setattr(curriculum, "learned", lambda *_: None)
    root, seen = shutil.copytree(begun, tmp_path / "run"), Counter[str]()
    logits, decode = Networks.logits, Networks.decode

    def asks(self: Networks, role: str, pixels: torch.Tensor, *more: bool) -> torch.Tensor:
        seen[role] += len(pixels)
        return logits(self, role, pixels, *more)

    def decodes(self: Networks, x: torch.Tensor, *more: bool) -> torch.Tensor:
        seen["decode"] += len(x) * x[0, 0].numel()
        return decode(self, x, *more)

    p = curriculum_of(root, METHOD, write_student(tmp_path / "teacher"), learnability={"space": space})
    facts, (stage,) = facts_of(p), (w for name, w in loads(p).items() if name.startswith("increment"))
    with pytest.MonkeyPatch.context() as patched, fitted_here():
        patched.setattr(Networks, "logits", asks)
        patched.setattr(Networks, "decode", decodes)
        grown(p)
    assert seen["teacher"] == seen[CURRENT] == seen[REFERENCE] == 2 * 2, "two candidates in two classes, at one step"
    judge, side = facts.students["convnet"][1], facts.shape[-1]
    if space == "latent":
        judge = networks.of_latent_judge(2, facts.shape, p.config.evaluate.width)[1]
    by_judges = (GRADIENT * (seen[CURRENT] + seen[REFERENCE]) + 2 * 2 * 2) * judge.flops  # and both choose
    by_teacher = GRADIENT * seen["teacher"] * facts.guiding["teacher"].flops
    assert stage.costs["teach"] == pytest.approx(by_judges + by_teacher)
    assert stage.costs["decode"] == pytest.approx((GRADIENT * seen["decode"] / side**2 + 4) * facts.decode.flops)


def test_a_base_that_asks_one_more_classifier_costs_that_classifier(tmp_path: Path) -> None:
    """Whether or not learnability leads beside it; its weights are in the worker's memory."""
    teacher = write_student(tmp_path / "teacher")
    for more in ({}, {"learnability": {"scale": 0.0}, "lgd": {"candidates": 1}}):
        plain, led = (loads(curriculum_of(tmp_path / "run", b, teacher, ipc=2, **more)) for b in ("mgd3", METHOD))
        facts = facts_of(curriculum_of(tmp_path / "run", METHOD, teacher, **more))
        images, cost = 2 * (1 if more else 2), facts.guiding["teacher"]  # each at one of two steps
        one, other = led["increment lgd 1"], plain["increment lgd 1"]
        assert one.costs["teach"] - other.costs.get("teach", 0.0) == pytest.approx(images * GRADIENT * cost.flops)
        decoded = images * GRADIENT * facts.decode.flops
        assert one.costs["decode"] - other.costs["decode"] == pytest.approx(decoded)
        held = cost.weights + (3 if more else 1) * facts.decode.kept  # learnability holds eight of half a side: two
        assert one.memory - other.memory == pytest.approx(held)


def test_so_does_a_method_of_its_own(tmp_path: Path) -> None:
    p = preflight.prepare(asked(write_student(tmp_path / "teacher"), run_dir=str(tmp_path / "run")))
    facts, stage = facts_of(p), loads(p)[f"sample {METHOD}"]
    assert stage.costs["teach"] == pytest.approx(2 * 3 * GRADIENT * facts.guiding["teacher"].flops)
    assert stage.costs["decode"] == pytest.approx(2 * 3 * (1 + GRADIENT) * facts.decode.flops)
    (v,) = (v for v in p.variants if v.config.method == METHOD)
    assert v.sampling is not None
    alone = sampling(replace(v, sampling=replace(v.sampling, guidance=None)), facts, 1)
    assert "teach" not in alone.costs
    assert stage.memory - alone.memory == pytest.approx(3 * facts.decode.kept + facts.guiding["teacher"].weights)


def test_a_plan_without_a_run_finds_them_and_refuses_as_the_run_would(tmp_path: Path) -> None:
    quiet = {"run_dir": str(tmp_path / "run"), "evaluate": {"baselines": [], "protocol": {"name": "hard"}}}
    _, _, facts = gather(asked(write_student(tmp_path / "teacher"), **quiet))
    assert set(facts.guiding) == {"teacher"} and facts.teacher is None, "nothing is labelled by it"
    with pytest.raises(BadInput, match=r"^guidance classified asks a classifier: give teacher\.path=FILE"):
        gather(asked(None, **quiet))


def test_the_probe_of_the_generator_asks_no_classifier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are counted apart, at a rate of their own."""
    monkeypatch.setattr(probe, "seconds", probe.once)
    monkeypatch.setattr(Networks, "logits", None)
    teacher = write_student(tmp_path / "teacher")
    assert probe.measure(asked(teacher, run_dir=str(tmp_path / "run"))).per_s["denoise"] > 0
