"""What every registered sampler must keep. A new file is picked up by itself."""

from __future__ import annotations

import pytest
import torch
from analytic import Mixture, batch, noise, prediction, steps

from raydistill import registry
from raydistill.diffusion.loop import Batch, Sampler, sample
from raydistill.diffusion.schedule import Step

GRIDS = ("released", "leading")

pytestmark = pytest.mark.parametrize("name", registry.names("sampler"))


def make(name: str) -> Sampler:
    return registry.get("sampler", name)()


def one(sampler: Sampler, step: Step, shift: torch.Tensor | None = None, size: float = 1.0) -> torch.Tensor:
    pred = prediction(step, size * noise(0), noise(1), noise(2).tanh())
    return sampler.step(pred, shift, noise(3) if sampler.stochastic and step.index else None)


def test_it_says_what_guidance_it_takes(name: str) -> None:
    assert set(make(name).spaces) <= {"mean", "epsilon"} and len(make(name).spaces) > 0
    assert isinstance(make(name).stochastic, bool)


def test_a_mean_shift_is_taken_exactly_or_refused(name: str) -> None:
    sampler, shift = make(name), noise(4)
    if "mean" in sampler.spaces:
        moved = one(sampler, steps(50)[20], shift) - one(sampler, steps(50)[20])
        torch.testing.assert_close(moved, shift, rtol=1e-5, atol=1e-5)
    else:
        with pytest.raises(ValueError):
            one(sampler, steps(50)[20], shift)


@pytest.mark.parametrize("grid", GRIDS)
def test_every_step_keeps_shape_dtype_and_finiteness(name: str, grid: str) -> None:
    for count in (1, 2, 50, 1000):
        for step in (steps(count, grid)[0], steps(count, grid)[-1]):
            x = one(make(name), step)
            assert x.shape == noise(0).shape and x.dtype == torch.float32 and torch.isfinite(x).all()


@pytest.mark.parametrize("grid", GRIDS)
def test_the_last_step_returns_x0_hat(name: str, grid: str) -> None:
    step = steps(50, grid)[-1]
    pred = prediction(step, noise(0), noise(1), noise(2).tanh())
    torch.testing.assert_close(make(name).step(pred, None, None), pred.x0_hat, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("grid", GRIDS)
def test_the_same_keys_give_the_same_bytes(name: str, grid: str) -> None:
    runs = [sample(Mixture((0.5,), 0.5), steps(10, grid), make(name), None, batch(3)) for _ in range(2)]
    assert torch.equal(*runs)
    other = sample(Mixture((0.5,), 0.5), steps(10, grid), make(name), None, batch(3, seed=1))
    assert not torch.equal(runs[0], other)


def test_global_randomness_plays_no_part(name: str) -> None:
    ends = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        ends.append(sample(Mixture((0.5,), 0.5), steps(5), make(name), None, batch(2)))
    assert torch.equal(*ends)


def test_a_sample_knows_nothing_of_its_batch(name: str) -> None:
    slots = batch(4)
    together = sample(Mixture((0.5,), 0.5), steps(10), make(name), None, slots)
    for i in range(4):
        alone = Batch(slots.class_index[i : i + 1], slots.prototype[i : i + 1], slots.keys[i : i + 1])
        x = sample(Mixture((0.5,), 0.5), steps(10), make(name), None, alone)
        torch.testing.assert_close(x, together[i : i + 1], rtol=1e-6, atol=1e-6)


def test_told_the_true_noise_it_ends_in_the_image(name: str) -> None:
    """Told at every step what noise is left, without drawing any, it ends in the image."""
    x0, x = noise(7), noise(8)
    for step in steps(50):
        a, b = step.alpha_bar**0.5, (1 - step.alpha_bar) ** 0.5
        x = make(name).step(prediction(step, x, (x - a * x0) / b), None, None)
    torch.testing.assert_close(x, x0, rtol=1e-3, atol=1e-3)
