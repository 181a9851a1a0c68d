"""What every registered guidance must keep, in every form that it takes. A new file is picked up by itself."""

from __future__ import annotations

import pytest
import torch
from analytic import Mixture, around, batch, noise, prediction, steps

from raydistill import registry
from raydistill.config import GuidanceConfig, ManifoldConfig
from raydistill.diffusion.loop import Batch, Guidance, sample
from raydistill.errors import BadInput
from raydistill.methods.base import resolve

VARIANTS = {"manifold": ["tangent_projection", "normal_correction"]}  # of one name, each to be held to the contract
ENTRIES = [
    (f"{name}:{variant}" if variant else name, form)
    for name in registry.names("guidance")
    for variant in VARIANTS.get(name, [""])
    for form in ("mean", "epsilon")
]
GUIDED = [name for name in registry.names("method") if registry.get("method", name).guidance]

pytestmark = pytest.mark.parametrize(("name", "form"), ENTRIES)


def make(name: str, form: str, scale: float = 0.3, start: float = 1.0, stop: float = 0.0) -> Guidance:
    name, _, variant = name.partition(":")
    own = [ManifoldConfig(variant=variant, cloud=16)] if variant else []
    return registry.get("guidance", name)(GuidanceConfig(scale=scale, start=start, stop=stop), form, *own)


def sampler_for(guidance: Guidance) -> type:
    return next(s for n in registry.names("sampler") if guidance.space in (s := registry.get("sampler", n)).spaces)


def run(guidance: Guidance, slots: Batch, count: int = 10) -> torch.Tensor:
    return sample(Mixture((-1.0, 1.0), 0.3, raw=0.2), steps(count), sampler_for(guidance)(), guidance, slots)


def test_a_sampler_accepts_its_space(name: str, form: str) -> None:
    guidance = make(name, form)
    assert any(guidance.space in registry.get("sampler", s).spaces for s in registry.names("sampler"))


def test_scale_0_is_the_identity(name: str, form: str) -> None:
    guidance = make(name, form, scale=0.0)
    unguided = sample(Mixture((-1.0, 1.0), 0.3, raw=0.2), steps(10), sampler_for(guidance)(), None, batch(3, 0.7))
    assert torch.equal(run(guidance, batch(3, 0.7)), unguided)


def test_outside_its_window_it_is_the_identity(name: str, form: str) -> None:
    guidance = make(name, form, start=0.59, stop=0.51)
    assert guidance.window.count(10) == 0
    unguided = sample(Mixture((-1.0, 1.0), 0.3, raw=0.2), steps(10), sampler_for(guidance)(), None, batch(3, 0.7))
    assert torch.equal(run(guidance, batch(3, 0.7)), unguided)
    assert not torch.equal(run(make(name, form), batch(3, 0.7)), unguided), "inside it, it does something"


def test_a_window_without_a_step_is_refused(name: str, form: str) -> None:
    from tiny_run import config

    for method in GUIDED:
        asked = config(method=method, guidance={"start": 0.59, "stop": 0.51}, sampler={"steps": 10})
        with pytest.raises(BadInput, match="holds none of the 10 steps"):
            resolve(asked)


def test_a_slot_knows_nothing_of_its_batch(name: str, form: str) -> None:
    anchors = noise(5, 4)
    whole = batch(4)
    whole = Batch(whole.class_index, anchors, whole.keys, around(anchors))
    together = run(make(name, form), whole)
    for i in range(4):
        torch.testing.assert_close(run(make(name, form), whole.take([i])), together[i : i + 1], rtol=1e-6, atol=1e-6)
    turned = whole.take([3, 2, 1, 0])
    torch.testing.assert_close(run(make(name, form), turned), together.flip(0), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("index", [0, 49], ids=["image end", "noise end"])
def test_finite_at_both_ends_of_time(name: str, form: str, index: int) -> None:
    """Also far from the prototype, and exactly on it."""
    step = steps(50)[49 - index]
    guidance = make(name, form)
    for size in (0.0, 1.0, 1e3):
        pred = prediction(step, size * noise(0), noise(1), noise(2))
        for prototype in (pred.x0_hat, torch.zeros_like(pred.x_t), noise(3)):
            slots = batch(3, prototype)
            assert torch.isfinite(guidance.delta(pred, slots)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(4, 4, 4), (16, 2, 8)])
def test_dtype_and_shape_are_kept(name: str, form: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    pred = prediction(steps(50)[10], *(noise(i, 3, shape).to(dtype) for i in range(3)))
    anchors = noise(4, 3, shape).to(dtype)
    slots = Batch(torch.zeros(3, dtype=torch.long), anchors, batch(3).keys, around(anchors))
    delta = make(name, form).delta(pred, slots)
    assert delta.dtype == dtype and delta.shape == pred.x_t.shape


def test_its_inputs_are_left_as_they_were(name: str, form: str) -> None:
    pred = prediction(steps(50)[10], noise(0), noise(1), noise(2))
    slots = batch(3, 0.7)
    kept = [t.clone() for t in (pred.x_t, pred.eps_hat, pred.x0_hat, pred.log_variance, slots.prototype)]
    make(name, form).delta(pred, slots)
    now = (pred.x_t, pred.eps_hat, pred.x0_hat, pred.log_variance, slots.prototype)
    assert all(torch.equal(a, b) for a, b in zip(kept, now, strict=True))
