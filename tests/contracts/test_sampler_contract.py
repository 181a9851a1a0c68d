"""What every registered sampler must keep, of diffusion or of flows. A new file is picked up by itself."""

from __future__ import annotations

import pytest
import torch
from analytic import Mixture, batch, noise, prediction, steps

from raydistill import registry
from raydistill.diffusion import flow
from raydistill.diffusion.loop import Batch, Sampler, sample
from raydistill.diffusion.schedule import Step

GRIDS = ("released", "leading")
DATA = Mixture((0.5,), 0.5)

pytestmark = pytest.mark.parametrize("name", registry.names("sampler"))


def make(name: str) -> Sampler | flow.FlowSampler:
    return registry.get("sampler", name)()


def flows(name: str) -> bool:
    return "velocity" in make(name).spaces


def run(name: str, slots: Batch, count: int = 10, grid: str = "released") -> torch.Tensor:
    """A whole trajectory to the normal DATA."""
    if flows(name):
        return flow.sample(DATA.velocity, flow.path(count), make(name), None, slots)[0]
    return sample(DATA, steps(count, grid), make(name), None, slots)


def saying(v: torch.Tensor, size: int = 3) -> flow.Field:
    """The field of a network that answers v (C, h, w) whatever it is asked."""
    return flow.Field(lambda x, t, c: v.expand_as(x), None, batch(size))


def one(name: str, step: Step | flow.FlowStep, shift: torch.Tensor | None = None) -> torch.Tensor:
    """One step from noise(0), where a network says noise(1)."""
    if isinstance(step, flow.FlowStep):
        return make(name).step(saying(noise(1)[0] if shift is None else noise(1)[0] + shift), noise(0), step)
    pred = prediction(step, noise(0), noise(1), noise(2).tanh())
    return make(name).step(pred, shift, noise(3) if make(name).stochastic and step.index else None)


def ends(name: str, count: int, grid: str) -> list[Step] | list[flow.FlowStep]:
    """The first and the last step."""
    path = flow.path(count) if flows(name) else steps(count, grid)
    return [path[0], path[-1]]


def test_it_says_what_guidance_it_takes(name: str) -> None:
    spaces = set(make(name).spaces)
    assert spaces == {"velocity"} or (spaces <= {"mean", "epsilon"} and spaces), "of diffusion or of flows"
    assert isinstance(make(name).stochastic, bool)


def test_a_shift_is_taken_exactly_or_refused(name: str) -> None:
    """A shift of the mean; for flows, one of the velocity, which moves x by (t' - t) times it."""
    shift = noise(4)
    if flows(name):
        step = flow.path(50)[20]
        moved = one(name, step, shift[0]) - one(name, step)
        torch.testing.assert_close(moved, (step.t_next - step.t) * shift[:1].expand_as(moved), rtol=1e-4, atol=1e-5)
    elif "mean" in make(name).spaces:
        moved = one(name, steps(50)[20], shift) - one(name, steps(50)[20])
        torch.testing.assert_close(moved, shift, rtol=1e-5, atol=1e-5)
    else:
        with pytest.raises(ValueError):
            one(name, steps(50)[20], shift)


@pytest.mark.parametrize("grid", GRIDS)
def test_every_step_keeps_shape_dtype_and_finiteness(name: str, grid: str) -> None:
    for count in (1, 2, 50, 1000):
        for step in ends(name, count, grid):
            x = one(name, step)
            assert x.shape == noise(0).shape and x.dtype == torch.float32 and torch.isfinite(x).all()


@pytest.mark.parametrize("grid", GRIDS)
def test_the_last_step_returns_the_predicted_image(name: str, grid: str) -> None:
    step = ends(name, 50, grid)[-1]
    if isinstance(step, flow.FlowStep):
        x1_hat = noise(0) + (1 - step.t) * noise(1)[:1]
        torch.testing.assert_close(one(name, step), x1_hat, rtol=1e-5, atol=1e-5)
        return
    pred = prediction(step, noise(0), noise(1), noise(2).tanh())
    torch.testing.assert_close(make(name).step(pred, None, None), pred.x0_hat, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("grid", GRIDS)
def test_the_same_keys_give_the_same_bytes(name: str, grid: str) -> None:
    runs = [run(name, batch(3), grid=grid) for _ in range(2)]
    assert torch.equal(*runs)
    assert not torch.equal(runs[0], run(name, batch(3, seed=1), grid=grid))


def test_global_randomness_plays_no_part(name: str) -> None:
    ends = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        ends.append(run(name, batch(2), 5))
    assert torch.equal(*ends)


def test_a_sample_knows_nothing_of_its_batch(name: str) -> None:
    slots = batch(4)
    together = run(name, slots)
    for i in range(4):
        alone = Batch(slots.class_index[i : i + 1], slots.prototype[i : i + 1], slots.keys[i : i + 1])
        torch.testing.assert_close(run(name, alone), together[i : i + 1], rtol=1e-6, atol=1e-6)


def test_told_the_truth_it_ends_in_the_image(name: str) -> None:
    """Told at every step what noise is left, or which way the image lies, without drawing any noise."""
    x0, x = noise(7), noise(8)
    if flows(name):
        x0 = x0[:1].expand_as(x)
        for step in flow.path(10):
            x = make(name).step(flow.Field(lambda y, t, c: (x0[: len(y)] - y) / (1 - t), None, batch(3)), x, step)
    else:
        for step in steps(50):
            a, b = step.alpha_bar**0.5, (1 - step.alpha_bar) ** 0.5
            x = make(name).step(prediction(step, x, (x - a * x0) / b), None, None)
    torch.testing.assert_close(x, x0, rtol=1e-3, atol=1e-3)
