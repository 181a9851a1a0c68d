"""Weights and a noised start with every registered method of prototypes under every sampler that takes it, alone and as
the base of a curriculum: guidance acts on steps that run, or is refused. A new file is picked up by itself."""

from __future__ import annotations

from typing import Any

import pytest
from tiny_run import config

from raydistill import registry
from raydistill.errors import BadInput
from raydistill.methods.resolve import Variant, resolve
from raydistill.methods.weighting import MODES
from raydistill.models.denoiser import GeneratorSpec
from raydistill.pipeline.preflight import check_steps

STEPS = 8
PROTOTYPES = [
    name
    for name in registry.names("method")
    if (method := registry.get("method", name)).uses_prototypes and method.generates
]
TIMED = [name for name in registry.names("sampler") if not getattr(registry.get("sampler", name), "any_time", False)]


def forms(method: str, sampler: str) -> list[str | None]:
    """In which a method's guidance goes with a sampler; None where it has none."""
    guidance, spaces = registry.get("method", method).guidance, registry.get("sampler", sampler).spaces
    return [None] if guidance is None else [s for s in registry.get("guidance", guidance).spaces if s in spaces]


COMBINATIONS = [
    (method, sampler, form, curriculum)
    for method in PROTOTYPES
    for sampler in TIMED
    for form in forms(method, sampler)
    for curriculum in (False, True)
]
pytestmark = pytest.mark.parametrize(("method", "sampler", "form", "curriculum"), COMBINATIONS)


def asked(method: str, sampler: str, form: str | None, curriculum: bool, **more: Any) -> Variant:
    keys = {"method": "lgd", "lgd": {"base": method}} if curriculum else {"method": method}
    return resolve(
        config(
            **keys, sampler={"name": sampler, "steps": STEPS}, guidance={"form": form, "stop": 0.5}, path={"t0": 0.0},
            **more,
        )
    )  # fmt: skip


def guided(v: Variant) -> tuple[list[Any], dict[str, list[int]]]:
    """The steps that run on the packaged generator, and at which of their indices each guidance acts."""
    assert v.sampling is not None
    plan, generator = v.sampling, GeneratorSpec(None)
    check_steps(plan, generator)
    if plan.flows:
        steps: list[Any] = list(generator.times(STEPS, plan.start.time, "released"))
    else:
        steps = list(generator.steps("released", STEPS, plan.start))
    return steps, {g.name: [s.index for s in steps if g.window.active(s)] for g in plan.acting}


@pytest.mark.parametrize("start", [{"strength": 0.5}, {"snr": 0.0892}, {"strength": 1.0}], ids=str)
def test_every_guidance_acts_within_the_steps_that_run(
    method: str, sampler: str, form: str | None, curriculum: bool, start: dict[str, float]
) -> None:
    v = asked(method, sampler, form, curriculum, start=start, weights={"mode": "density"})
    steps, acting = guided(v)
    main = registry.get("method", method).guidance
    assert set(acting) == {name for name in (main, "learnability" if curriculum else None) if name}
    assert all(acting.values()), "none of them does nothing"
    assert v.config.weights.mode == "density" and v.sampling is not None
    assert v.sampling.start.noised == (start.get("strength") != 1.0)
    if v.sampling.flows:
        assert len(steps) == STEPS and steps[0].t >= v.sampling.start.time
    else:
        assert [s.index for s in steps] == list(range(len(steps)))[::-1]
        assert len(steps) == (STEPS if start == {"strength": 1.0} else STEPS // 2)
        if main is not None:
            assert acting[main] == [s.index for s in steps if s.index / len(steps) > 0.5], "of those, the noisy half"


def test_where_no_step_is_left_to_guide_it_is_refused(
    method: str, sampler: str, form: str | None, curriculum: bool
) -> None:
    late = {"start": {"strength": 0.1}}
    if form is None and not curriculum:
        assert guided(asked(method, sampler, form, curriculum, **late))[1] == {}
        return
    with pytest.raises(BadInput, match=r"its window \(.*\) holds none of the [18] steps that run"):
        guided(asked(method, sampler, form, curriculum, **late))


@pytest.mark.parametrize("mode", [*MODES])
def test_every_mode_of_weights_goes_with_it_and_is_no_part_of_how_images_come_about(
    method: str, sampler: str, form: str | None, curriculum: bool, mode: str
) -> None:
    gamma = {"gamma": 0.3} if MODES[mode].needs_gamma else {}
    plain = asked(method, sampler, form, curriculum)
    weighed = asked(method, sampler, form, curriculum, weights={"mode": mode, **gamma})
    assert weighed.config.weights.mode == mode and weighed.sampling == plain.sampling
