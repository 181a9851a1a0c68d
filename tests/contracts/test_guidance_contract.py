"""What every registered guidance must keep, in every form that it takes. A new file is picked up by itself."""

from __future__ import annotations

import pytest
import torch
from analytic import Mixture, around, batch, flow_prediction, noise, prediction, steps

from raydistill import registry
from raydistill.config import GuidanceConfig, ManifoldConfig, PathConfig
from raydistill.diffusion import flow
from raydistill.diffusion.loop import Batch, sample
from raydistill.diffusion.prediction import FlowPrediction, Prediction
from raydistill.errors import BadInput
from raydistill.methods.base import forms, resolve

VARIANTS = {"manifold": ["tangent_projection", "normal_correction"]}  # of one name, each to be held to the contract
ENTRIES = [
    (f"{name}:{variant}" if variant else name, form)
    for name in registry.names("guidance")
    for variant in VARIANTS.get(name, [""])
    for form in forms(name)
]
GUIDED = [name for name in registry.names("method") if registry.get("method", name).guidance]
DATA = Mixture((-1.0, 1.0), 0.3, raw=0.2)

pytestmark = pytest.mark.parametrize(("name", "form"), ENTRIES)


def make(name: str, form: str, scale: float = 0.3, start: float = 1.0, stop: float = 0.0):
    name, _, variant = name.partition(":")
    own = [ManifoldConfig(variant=variant, cloud=16)] if variant else []
    if name == "path":
        own = [PathConfig(w_max=scale, t_stop=1 - stop, power=0.0, t0=0.0, tau=None)]
    return registry.get("guidance", name)(GuidanceConfig(scale=scale, start=start, stop=stop), form, *own)


def run(guidance, slots: Batch, form: str, count: int = 10, before: float = 0.0) -> torch.Tensor:
    """By each sampler that takes the form, end to end; a flow may begin `before` t = 0 is over."""
    ends = []
    for sampler in (registry.get("sampler", s) for s in registry.names("sampler")):
        if form in sampler.spaces and form == "velocity":
            ends.append(flow.sample(DATA.velocity, flow.path(count, before), sampler(), guidance, slots)[0])
        elif form in sampler.spaces:
            ends.append(sample(DATA, steps(count), sampler(), guidance, slots))
    return torch.stack(ends)


def at(form: str, index: int, x: torch.Tensor, answer: torch.Tensor) -> Prediction | FlowPrediction:
    """What a network that gives `answer` is taken to mean at step `index` of 50, 0 being the last."""
    if form == "velocity":
        return flow_prediction(flow.path(50)[49 - index], x, answer)
    return prediction(steps(50)[49 - index], x, answer, noise(2, len(x), tuple(x.shape[1:])).to(x.dtype))


def test_a_sampler_accepts_its_space(name: str, form: str) -> None:
    guidance = make(name, form)
    assert any(guidance.space in registry.get("sampler", s).spaces for s in registry.names("sampler"))


def test_scale_0_is_the_identity(name: str, form: str) -> None:
    guidance = make(name, form, scale=0.0)
    assert torch.equal(run(guidance, batch(3, 0.7), form), run(None, batch(3, 0.7), form))


def test_outside_its_window_it_is_the_identity(name: str, form: str) -> None:
    """A window between two steps; for a flow, one that shuts before the path begins."""
    guidance = make(name, form, start=0.59, stop=0.51)
    assert form == "velocity" or guidance.window.count(10) == 0
    unguided = run(None, batch(3, 0.7), form, before=0.5)
    assert torch.equal(run(guidance, batch(3, 0.7), form, before=0.5), unguided)
    inside = run(make(name, form), batch(3, 0.7), form, before=0.5)
    assert all(not torch.equal(a, b) for a, b in zip(inside, unguided, strict=True)), "inside it, it does something"


def test_a_window_without_a_step_is_refused(name: str, form: str) -> None:
    from tiny_run import config

    if form == "velocity":
        with pytest.raises(BadInput, match=r"path.t_stop=0.2 must be above path.t0=0.3, otherwise no step is guided"):
            config(path={"t0": 0.3, "t_stop": 0.2})
        return
    for method in GUIDED:
        if form not in forms(registry.get("method", method).guidance):
            continue
        asked = config(method=method, guidance={"start": 0.59, "stop": 0.51}, sampler={"steps": 10})
        with pytest.raises(BadInput, match="holds none of the 10 steps"):
            resolve(asked)


def test_a_slot_knows_nothing_of_its_batch(name: str, form: str) -> None:
    anchors = noise(5, 4)
    whole = batch(4)
    whole = Batch(whole.class_index, anchors, whole.keys, around(anchors))
    together = run(make(name, form), whole, form)
    for i in range(4):
        alone = run(make(name, form), whole.take([i]), form)
        torch.testing.assert_close(alone, together[:, i : i + 1], rtol=1e-6, atol=1e-6)
    turned = whole.take([3, 2, 1, 0])
    torch.testing.assert_close(run(make(name, form), turned, form), together.flip(1), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("index", [0, 49], ids=["image end", "noise end"])
def test_finite_at_both_ends_of_time(name: str, form: str, index: int) -> None:
    """Also far from the prototype, exactly on it, and where the network says nothing at all."""
    guidance = make(name, form)
    for size in (0.0, 1.0, 1e3):
        pred = at(form, index, size * noise(0), size * noise(1))
        guess = pred.x1_hat if isinstance(pred, FlowPrediction) else pred.x0_hat
        for prototype in (guess, torch.zeros_like(pred.x_t), noise(3)):
            slots = batch(3, prototype)
            assert torch.isfinite(guidance.delta(pred, slots)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(4, 4, 4), (16, 2, 8)])
def test_dtype_and_shape_are_kept(name: str, form: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    pred = at(form, 39, *(noise(i, 3, shape).to(dtype) for i in range(2)))
    anchors = noise(4, 3, shape).to(dtype)
    slots = Batch(torch.zeros(3, dtype=torch.long), anchors, batch(3).keys, around(anchors))
    delta = make(name, form).delta(pred, slots)
    assert delta.dtype == dtype and delta.shape == pred.x_t.shape


def test_its_inputs_are_left_as_they_were(name: str, form: str) -> None:
    pred, slots = at(form, 39, noise(0), noise(1)), batch(3, 0.7)
    seen = [t for t in (*vars(pred).values(), slots.prototype) if isinstance(t, torch.Tensor)]
    kept = [t.clone() for t in seen]
    make(name, form).delta(pred, slots)
    assert len(seen) > 2 and all(torch.equal(a, b) for a, b in zip(kept, seen, strict=True))
