"""What every registered guidance must keep, in every space that it takes. A new file is picked up by itself."""

from __future__ import annotations

import pytest
import torch
from analytic import SHAPE, Mixture, batch, flow_prediction, networks, noise, prediction, steps

from raydistill import registry
from raydistill.diffusion import flow
from raydistill.diffusion.loop import Batch, sample
from raydistill.diffusion.prediction import FlowPrediction, Prediction
from raydistill.errors import BadInput
from raydistill.guidance.base import Guidance
from raydistill.methods.resolve import resolve

ENTRIES = [
    (name, space, variant)
    for name in registry.names("guidance")
    for space in registry.get("guidance", name).spaces
    for variant, _ in enumerate(registry.get("guidance", name).examples(0.3, 1.0, 0.0))
]
GUIDED = [name for name in registry.names("method") if registry.get("method", name).guidance]
DATA = Mixture((-1.0, 1.0), 0.3, raw=0.2)

pytestmark = pytest.mark.parametrize(("name", "space", "variant"), ENTRIES)


def make(name: str, space: str, variant: int, scale: float = 0.3, start: float = 1.0, stop: float = 0.0):
    kind = registry.get("guidance", name)
    numbers, section = list(kind.examples(scale, start, stop))[variant]
    guidance = kind.make(numbers, space, section)
    guidance.bind(networks(kind.networks(section)))
    return guidance


def slots_of(guidance: Guidance, prototype: torch.Tensor | float, size: int = 3, shape=SHAPE) -> Batch:
    """Slots of one class, with what the guidance asks to see of latents that lie around the prototypes."""
    plain = batch(size, prototype, shape)
    anchors = plain.prototype
    latents = (anchors.unsqueeze(1) + noise(99, 32, shape)).flatten(0, 1).numpy()
    context = {
        name: torch.from_numpy(asked.of(latents, anchors.numpy()))
        for name, asked in guidance.context(guidance.settings).items()
    }
    return Batch(plain.class_index, anchors, plain.keys, context)


def run(guidance, slots: Batch, space: str, count: int = 10, before: float = 0.0) -> torch.Tensor:
    """By each sampler that takes the space, end to end; a flow may begin `before` t = 0 is over."""
    ends = []
    for sampler in (registry.get("sampler", s) for s in registry.names("sampler")):
        if space in sampler.spaces and space == "velocity":
            ends.append(flow.sample(DATA.velocity, flow.path(count, before), sampler(), guidance, slots)[0])
        elif space in sampler.spaces:
            ends.append(sample(DATA, steps(count), sampler(), guidance, slots))
    return torch.stack(ends)


def at(space: str, index: int, x: torch.Tensor, answer: torch.Tensor) -> Prediction | FlowPrediction:
    """What a network that gives `answer` is taken to mean at step `index` of 50, 0 being the last."""
    if space == "velocity":
        return flow_prediction(flow.path(50)[49 - index], x, answer)
    return prediction(steps(50)[49 - index], x, answer, noise(2, len(x), tuple(x.shape[1:])).to(x.dtype))


def test_a_sampler_accepts_its_space(name: str, space: str, variant: int) -> None:
    guidance = make(name, space, variant)
    assert any(guidance.space in registry.get("sampler", s).spaces for s in registry.names("sampler"))


def test_scale_0_is_the_identity(name: str, space: str, variant: int) -> None:
    guidance = make(name, space, variant, scale=0.0)
    assert torch.equal(run(guidance, slots_of(guidance, 0.7), space), run(None, batch(3, 0.7), space))


def test_outside_its_window_it_is_the_identity(name: str, space: str, variant: int) -> None:
    """A window between two steps; for a flow, one that shuts before the path begins."""
    guidance = make(name, space, variant, start=0.59, stop=0.51)
    assert space == "velocity" or guidance.window.count(10) == 0
    unguided = run(None, batch(3, 0.7), space, before=0.5)
    assert torch.equal(run(guidance, slots_of(guidance, 0.7), space, before=0.5), unguided)
    guidance = make(name, space, variant)
    inside = run(guidance, slots_of(guidance, 0.7), space, before=0.5)
    assert all(not torch.equal(a, b) for a, b in zip(inside, unguided, strict=True)), "inside it, it does something"


def test_a_window_without_a_step_is_refused(name: str, space: str, variant: int) -> None:
    from tiny_run import config

    if space == "velocity":
        with pytest.raises(BadInput, match=r"path.t_stop=0.2 must be above path.t0=0.3, otherwise no step is guided"):
            config(path={"t0": 0.3, "t_stop": 0.2})
        return
    for method in GUIDED:
        if space not in registry.get("guidance", registry.get("method", method).guidance).spaces:
            continue
        asked = config(method=method, guidance={"start": 0.59, "stop": 0.51}, sampler={"steps": 10})
        with pytest.raises(BadInput, match="holds none of the 10 steps"):
            resolve(asked)


def test_a_slot_knows_nothing_of_its_batch(name: str, space: str, variant: int) -> None:
    whole = slots_of(make(name, space, variant), noise(5, 4), 4)
    together = run(make(name, space, variant), whole, space)
    for i in range(4):
        alone = run(make(name, space, variant), whole.take([i]), space)
        torch.testing.assert_close(alone, together[:, i : i + 1], rtol=1e-6, atol=1e-6)
    turned = whole.take([3, 2, 1, 0])
    torch.testing.assert_close(run(make(name, space, variant), turned, space), together.flip(1), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("index", [0, 49], ids=["image end", "noise end"])
def test_finite_at_both_ends_of_time(name: str, space: str, variant: int, index: int) -> None:
    """Also far from the prototype, exactly on it, and where the network says nothing at all."""
    guidance = make(name, space, variant)
    for size in (0.0, 1.0, 1e3):
        pred = at(space, index, size * noise(0), size * noise(1))
        guess = pred.x1_hat if isinstance(pred, FlowPrediction) else pred.x0_hat
        for prototype in (guess, torch.zeros_like(pred.x_t), noise(3)):
            slots = slots_of(guidance, prototype)
            assert torch.isfinite(guidance.delta(pred, slots)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(4, 4, 4), (16, 2, 8)])
def test_dtype_and_shape_are_kept(
    name: str, space: str, variant: int, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    pred = at(space, 39, *(noise(i, 3, shape).to(dtype) for i in range(2)))
    guidance = make(name, space, variant)
    single = slots_of(guidance, noise(4, 3, shape), 3, shape)
    context = {n: v.to(dtype) for n, v in single.context.items()}
    delta = guidance.delta(pred, Batch(single.class_index, single.prototype.to(dtype), single.keys, context))
    assert delta.dtype == dtype and delta.shape == pred.x_t.shape


def test_it_acts_alike_in_the_loops_and_outside(name: str, space: str, variant: int) -> None:
    """The loops record no gradients: a guidance that needs them sees to it itself."""
    pred, guidance = at(space, 39, noise(0), noise(1)), make(name, space, variant)
    outside = guidance.delta(pred, slots_of(guidance, 0.7))
    with torch.inference_mode():
        inside = guidance.delta(at(space, 39, noise(0) + 0, noise(1) + 0), slots_of(guidance, 0.7).take([0, 1, 2]))
    assert torch.equal(inside, outside) and not outside.requires_grad


def test_its_inputs_are_left_as_they_were(name: str, space: str, variant: int) -> None:
    guidance = make(name, space, variant)
    pred, slots = at(space, 39, noise(0), noise(1)), slots_of(guidance, 0.7)
    seen = [t for t in (*vars(pred).values(), slots.prototype, *slots.context.values()) if isinstance(t, torch.Tensor)]
    kept = [t.clone() for t in seen]
    guidance.delta(pred, slots)
    assert len(seen) > 2 and all(torch.equal(a, b) for a, b in zip(kept, seen, strict=True))
