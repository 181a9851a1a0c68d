"""The schedule and the samplers' steps: number by number against diffusers, and against the equations in float64."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from analytic import LINEAR, noise, prediction, steps
from diffusers import DDIMScheduler, DDPMScheduler
from hypothesis import given
from hypothesis import strategies as st

from raydistill.diffusion.prediction import x0_from_eps
from raydistill.diffusion.samplers.ddim import Ddim
from raydistill.diffusion.samplers.ddpm import Ddpm
from raydistill.diffusion.schedule import Step, Window, alphas_bar, path, timesteps
from raydistill.errors import BadInput

SCHEDULES = {
    "linear": LINEAR,
    "scaled_linear": LINEAR | {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    "trained_betas": {"num_train_timesteps": 100, "trained_betas": np.linspace(1e-3, 0.1, 100).tolist()},
}
BY_INDEX = {s.index: s for s in steps(50)}


class TestSchedule:
    @pytest.mark.parametrize(
        ("index", "t", "alpha_bar", "noise_std", "posterior_std"),
        [
            (49, 999, 4e-5, 1.000, 0.574),
            (45, 917, 0.0002, 1.000, 0.554),
            (40, 816, 0.0012, 0.999, 0.538),
            (30, 612, 0.022, 0.989, 0.473),
            (26, 530, 0.057, 0.971, 0.433),
            (25, 510, 0.070, 0.964, 0.433),
            (20, 408, 0.181, 0.905, 0.386),
            (10, 204, 0.646, 0.595, 0.260),
            (1, 20, 0.994, 0.079, 0.010),
        ],
    )
    def test_fifty_steps_of_dit(self, index, t, alpha_bar, noise_std, posterior_std) -> None:
        s = BY_INDEX[index]
        assert s.t == t and s.fraction == index / 50
        assert s.alpha_bar == pytest.approx(alpha_bar, rel=0.035)  # the table rounds to two digits
        assert (1 - s.alpha_bar) ** 0.5 == pytest.approx(noise_std, abs=5e-4)
        assert s.posterior_variance**0.5 == pytest.approx(posterior_std, abs=5e-4)

    @pytest.mark.parametrize("kind", SCHEDULES)
    def test_alpha_bar_is_that_of_diffusers(self, kind: str) -> None:
        theirs = DDPMScheduler.from_config(SCHEDULES[kind]).alphas_cumprod
        assert alphas_bar(SCHEDULES[kind]) == pytest.approx(theirs.double().numpy(), rel=1e-4)

    def test_an_unknown_schedule_is_refused(self) -> None:
        with pytest.raises(BadInput, match="beta_schedule 'squaredcos_cap_v2'"):
            alphas_bar({"beta_schedule": "squaredcos_cap_v2", "beta_start": 1e-4, "beta_end": 0.02})
        with pytest.raises(BadInput, match="beta_start=None"):
            alphas_bar({"beta_schedule": "linear"})

    @pytest.mark.parametrize("count", [1, 2, 7, 10, 25, 50, 250, 999, 1000])
    def test_grids_are_those_of_diffusers(self, count: int) -> None:
        spread, leading = (DDPMScheduler(timestep_spacing=s) for s in ("linspace", "leading"))
        for scheduler, grids in ((spread, ("released", "linspace")), (leading, ("leading",))):
            scheduler.set_timesteps(count)
            for grid in grids:
                if grid == "leading" or count > 1:  # of one step, diffusers' linspace keeps t = 0: no noise at all
                    assert timesteps(grid, count, 1000).tolist() == scheduler.timesteps.tolist()[::-1]
        assert timesteps("released", 1, 1000).tolist() == [999]

    def test_the_released_grid_is_dits(self) -> None:
        assert timesteps("released", 50, 1000).tolist()[:4] == [0, 20, 41, 61]
        assert timesteps("leading", 50, 1000).tolist() == list(range(0, 1000, 20))

    def test_more_steps_than_training_are_refused(self) -> None:
        with pytest.raises(BadInput, match=r"sampler.steps=1001 is more than the generator's 1000"):
            timesteps("released", 1001, 1000)

    @given(st.integers(1, 200), st.sampled_from(["released", "leading"]))
    def test_a_path_runs_from_noise_to_image(self, count: int, grid: str) -> None:
        schedule = path(alphas_bar(LINEAR), grid, count)
        assert [s.index for s in schedule] == list(range(count))[::-1]
        assert schedule[-1].alpha_bar_prev == 1 and schedule[-1].posterior_variance == 0
        assert all(a.alpha_bar_prev == b.alpha_bar and a.t > b.t for a, b in pairwise(schedule))
        assert all(0 < s.beta < 1 and 0 <= s.posterior_variance < s.beta for s in schedule)


def open_at(window: Window, steps: list[Step]) -> list[int]:
    """The indices at which a window is open, in sampling order."""
    return [s.index for s in steps if window.active(s)]


class TestWindow:
    def test_the_noisy_half_is_49_to_26(self) -> None:
        """`stop at 25` of the release: indices count down, and guidance is on early."""
        assert open_at(Window(1.0, 0.5), steps(50)) == list(range(49, 25, -1))
        assert Window(1.0, 0.5).count(50) == 24

    def test_the_whole_path_leaves_out_the_last_step(self) -> None:
        assert open_at(Window(1.0, 0.0), steps(50)) == list(range(49, 0, -1))

    @given(st.floats(0, 1), st.floats(0, 1), st.integers(1, 60))
    def test_count_counts_active_steps(self, start: float, stop: float, count: int) -> None:
        window = Window(start, stop)
        active = open_at(window, steps(count))
        assert window.count(count) == len(active)


def network(step: Step, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """An x_t of the right size with some answer of a network: (x_t, eps, raw variance in about [-1, 1])."""
    x0, eps, guess, raw = (noise(seed + i) for i in range(4))
    x_t = step.alpha_bar**0.5 * x0 + (1 - step.alpha_bar) ** 0.5 * eps
    return x_t, eps + 0.1 * guess, raw.tanh()


def exact(step: Step, x_t: torch.Tensor, eps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """x0_hat and the posterior mean (Ho et al., eq. 7), in float64."""
    a, ap = step.alpha_bar, step.alpha_bar_prev
    x0 = (x_t.double() - (1 - a) ** 0.5 * eps.double()) / a**0.5
    beta = 1 - a / ap
    mean = ap**0.5 * beta / (1 - a) * x0 + (1 - beta) ** 0.5 * (1 - ap) / (1 - a) * x_t.double()
    return x0, mean


def double(scheduler: DDPMScheduler | DDIMScheduler) -> DDPMScheduler | DDIMScheduler:
    """Its sums of float32 are 1e-4 off at the noisy end; the table in double precision leaves the steps to compare."""
    scheduler.alphas_cumprod = torch.from_numpy(alphas_bar(LINEAR))
    return scheduler


class TestDdpm:
    @pytest.mark.parametrize("grid", ["released", "leading"])
    @pytest.mark.parametrize("variance", ["learned_range", "fixed_small"])
    def test_every_step_is_that_of_diffusers(self, grid: str, variance: str) -> None:
        spacing = {"released": "linspace", "leading": "leading"}[grid]
        theirs = double(
            DDPMScheduler.from_config(LINEAR, variance_type=variance, timestep_spacing=spacing, clip_sample=False)
        )
        theirs.set_timesteps(50)
        for step in steps(50, grid):
            x_t, eps, raw = network(step, step.index)
            learned = raw if variance == "learned_range" else None
            z = torch.randn(eps.shape, generator=torch.Generator().manual_seed(7)) if step.index else None
            ours = Ddpm().step(prediction(step, x_t, eps, learned), None, z)
            said = eps if learned is None else torch.cat([eps, raw], 1)
            want = theirs.step(said, step.t, x_t, generator=torch.Generator().manual_seed(7)).prev_sample
            torch.testing.assert_close(ours, want.float(), rtol=1e-5, atol=1e-5)

    def test_the_mean_is_that_of_the_posterior(self) -> None:
        for step in steps(50):
            x_t, eps, _ = network(step, step.index)
            x0, mean = exact(step, x_t, eps)
            pred = prediction(step, x_t, eps)
            torch.testing.assert_close(pred.x0_hat.double(), x0, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(Ddpm().step(pred, None, None).double(), mean, rtol=1e-5, atol=1e-5)

    def test_learned_variance_lies_between_its_bounds_in_log_space(self) -> None:
        for step in steps(50)[:-1]:
            x_t, eps, _ = network(step, 0)
            low, middle, high = (prediction(step, x_t, eps, torch.full_like(eps, r)).sigma_t for r in (-1.0, 0.0, 1.0))
            assert low.mean().item() == pytest.approx(step.posterior_variance**0.5, rel=1e-5)
            assert high.mean().item() == pytest.approx(step.beta**0.5, rel=1e-5)
            torch.testing.assert_close(middle, (low * high).sqrt())
            assert torch.equal(prediction(step, x_t, eps).sigma_t, low)

    def test_at_the_last_step_the_mean_is_x0_hat(self) -> None:
        x_t, eps, raw = network(BY_INDEX[0], 3)
        pred = prediction(BY_INDEX[0], x_t, eps, raw)
        torch.testing.assert_close(Ddpm().step(pred, None, None), pred.x0_hat)


class TestDdim:
    @pytest.mark.parametrize("count", [10, 50, 250])
    def test_every_step_is_that_of_diffusers(self, count: int) -> None:
        theirs = double(
            DDIMScheduler.from_config(LINEAR, timestep_spacing="leading", clip_sample=False, set_alpha_to_one=True)
        )
        theirs.set_timesteps(count)
        for step in steps(count, "leading"):
            x_t, eps, _ = network(step, step.index)
            ours = Ddim().step(prediction(step, x_t, eps), None, None)
            want = theirs.step(eps, step.t, x_t, eta=0.0).prev_sample
            torch.testing.assert_close(ours, want.float(), rtol=1e-5, atol=1e-5)

    def test_every_step_is_the_equation_on_the_released_grid(self) -> None:
        for step in steps(50):
            x_t, eps, _ = network(step, step.index)
            x0, _ = exact(step, x_t, eps)
            want = step.alpha_bar_prev**0.5 * x0 + (1 - step.alpha_bar_prev) ** 0.5 * eps.double()
            ours = Ddim().step(prediction(step, x_t, eps), None, None).double()
            torch.testing.assert_close(ours, want, rtol=1e-5, atol=1e-5)

    def test_it_takes_neither_noise_nor_a_mean_shift(self) -> None:
        pred = prediction(BY_INDEX[10], noise(0), noise(1))
        for shift, z in ((noise(2), None), (None, noise(2))):
            with pytest.raises(ValueError, match="neither"):
                Ddim().step(pred, shift, z)


def test_the_true_noise_gives_the_true_image() -> None:
    x0, eps = noise(0), noise(1)
    for step in steps(50):
        x_t = step.alpha_bar**0.5 * x0.double() + (1 - step.alpha_bar) ** 0.5 * eps.double()
        torch.testing.assert_close(x0_from_eps(x_t, eps.double(), step), x0.double())


def test_another_noise_estimate_moves_x0_hat_alone() -> None:
    pred = prediction(BY_INDEX[30], noise(0), noise(1), noise(2))
    moved = pred.with_eps(noise(3))
    assert torch.equal(moved.x_t, pred.x_t) and torch.equal(moved.log_variance, pred.log_variance)
    assert torch.equal(moved.x0_hat, x0_from_eps(pred.x_t, noise(3), pred.step))


def test_a_sample_without_a_push_keeps_the_image_that_the_network_predicts() -> None:
    """Of a flow it is not to the bit what its noise estimate gives."""
    pred = replace(prediction(BY_INDEX[30], noise(0), noise(1), noise(2)), x0_hat=noise(4))
    push = noise(3) * torch.tensor([0.0, 1.0, 2.0]).view(3, 1, 1, 1)
    moved = pred.with_eps(pred.eps_hat + push)
    assert torch.equal(moved.x0_hat[0], pred.x0_hat[0])
    assert torch.equal(moved.x0_hat[1:], x0_from_eps(pred.x_t, moved.eps_hat, pred.step)[1:])
