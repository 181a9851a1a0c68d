"""Whole trajectories with a denoiser known in closed form: unguided they end in the data, guided near the prototype."""

from __future__ import annotations

import math

import pytest
import torch
from analytic import Mixture, batch, noise, prediction, steps

from raydistill.config import GuidanceConfig
from raydistill.diffusion.loop import sample
from raydistill.diffusion.samplers.ddim import Ddim
from raydistill.diffusion.samplers.ddpm import Ddpm
from raydistill.diffusion.schedule import Step
from raydistill.guidance.mode import Mode
from raydistill.guidance.mode_x0 import ModeX0

MU, S = 1.5, 0.4
FORMS = {"mean": (Ddpm, "released"), "epsilon": (Ddim, "leading")}


def mode(scale: float, form: str = "mean", start: float = 1.0, stop: float = 0.5) -> Mode:
    return Mode(GuidanceConfig(scale=scale, start=start, stop=stop), form)  # type: ignore[arg-type]


def moments(path: tuple[Step, ...], stochastic: bool) -> tuple[float, float]:
    """Exact mean and standard deviation at the end, for data N(MU, S^2): every step is linear in x_t."""
    mean, variance = 0.0, 1.0
    for s in path:
        a, b, ap, bp = s.alpha_bar**0.5, (1 - s.alpha_bar) ** 0.5, s.alpha_bar_prev**0.5, (1 - s.alpha_bar_prev) ** 0.5
        v = a**2 * S**2 + b**2
        if stochastic:
            slope = ap * s.beta / b**2 * a * S**2 / v + (s.alpha_bar / s.alpha_bar_prev) ** 0.5 * bp**2 / b**2
        else:
            slope = (ap * a * S**2 + bp * b) / v
        mean = ap * MU + slope * (mean - a * MU)
        variance = slope**2 * variance + (s.posterior_variance if stochastic else 0.0)
    return mean, variance**0.5


class TestUnguided:
    @pytest.mark.parametrize("sampler", [Ddpm, Ddim])
    def test_a_normal_comes_out_with_its_mean_and_std(self, sampler: type) -> None:
        path = steps(50)
        x = sample(Mixture((MU,), S), path, sampler(), None, batch(64, shape=(4, 8, 8)))
        mean, std = moments(path, sampler.stochastic)
        draws = x.numel()
        assert x.mean().item() == pytest.approx(mean, abs=4 * S / math.sqrt(draws))
        assert x.std().item() == pytest.approx(std, rel=4 / math.sqrt(2 * draws))
        assert (mean, std) == (pytest.approx(MU, abs=0.02), pytest.approx(S, rel=0.15))

    @pytest.mark.parametrize("stochastic", [True, False])
    def test_more_steps_come_nearer_to_the_data(self, stochastic: bool) -> None:
        errors = [abs(moments(steps(n), stochastic)[1] / S - 1) for n in (25, 50, 200, 1000)]
        assert errors == sorted(errors, reverse=True) and errors[-1] < 0.01

    def test_ddim_maps_noise_to_data_by_a_line(self) -> None:
        """x_0 - mean is the noise times the standard deviation at the end: nothing else enters."""
        slots = batch(5)
        x = sample(Mixture((MU,), S), steps(50), Ddim(), None, slots)
        mean, std = moments(steps(50), False)
        torch.testing.assert_close(x, mean + std * slots.noise("init", 0), rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("sampler", [Ddpm, Ddim])
    def test_a_mixture_comes_out_in_its_modes(self, sampler: type) -> None:
        x = sample(Mixture((-2.0, 2.0), 0.1), steps(50), sampler(), None, batch(32))
        assert (x.abs() - 2).abs().max() < 0.6 and (x.abs() - 2).abs().mean() < 0.15
        assert (x > 0).float().mean().item() == pytest.approx(0.5, abs=0.05)

    def test_noise_is_drawn_at_every_step_but_the_last(self) -> None:
        drawn: dict[int, bool] = {}

        class Recorder(Ddpm):
            def step(self, pred, mean_shift, noise):
                drawn[pred.step.index] = noise is not None
                return super().step(pred, mean_shift, noise)

        sample(Mixture((MU,), S, raw=0.5), steps(5), Recorder(), None, batch(1))
        assert drawn == {4: True, 3: True, 2: True, 1: True, 0: False}

    def test_a_wider_variance_gives_a_wider_result(self) -> None:
        low, high = (sample(Mixture((MU,), S, raw), steps(10), Ddpm(), None, batch(32)).std() for raw in (-1.0, 1.0))
        assert high > low


class TestMode:
    @pytest.mark.parametrize("form", FORMS)
    def test_scale_0_is_the_unguided_run_bit_for_bit(self, form: str) -> None:
        sampler, grid = FORMS[form]
        runs = [
            sample(Mixture((-2.0, 2.0), 0.3), steps(20, grid), sampler(), guide, batch(3, 1.7))
            for guide in (None, mode(0.0, form))
        ]
        assert torch.equal(*runs)

    @pytest.mark.parametrize("form", FORMS)
    def test_a_larger_scale_lands_nearer_to_the_prototype(self, form: str) -> None:
        sampler, grid = FORMS[form]
        ends = [
            sample(Mixture((0.0,), 1.0), steps(50, grid), sampler(), mode(scale, form), batch(8, 1.7))
            for scale in (0.0, 0.05, 0.1, 0.2)
        ]
        far = [(x - 1.7).square().mean().item() for x in ends]
        assert far == sorted(far, reverse=True) and far[-1] < 0.8 * far[0]

    @pytest.mark.parametrize("form", FORMS)
    def test_it_decides_which_mode_is_reached(self, form: str) -> None:
        sampler, grid = FORMS[form]
        free, pulled = (
            sample(Mixture((-2.0, 2.0), 0.2), steps(50, grid), sampler(), mode(scale, form), batch(8, 2.0))
            for scale in (0.0, 0.3)
        )
        assert (free > 0).float().mean() < 0.6 and (pulled > 0).float().mean() > 0.8

    def test_a_shut_window_changes_nothing(self) -> None:
        """Between two steps there is none at which it acts."""
        runs = [
            sample(Mixture((0.0,), 1.0), steps(10), Ddpm(), guide, batch(3, 1.7))
            for guide in (None, mode(5.0, start=0.59, stop=0.51))
        ]
        assert torch.equal(*runs)

    def test_the_loop_guides_inside_the_window_only(self) -> None:
        asked: list[int] = []

        class Recorder(Mode):
            def delta(self, pred, batch):
                asked.append(pred.step.index)
                return super().delta(pred, batch)

        sample(Mixture((0.0,), 1.0), steps(50), Ddpm(), Recorder(GuidanceConfig(), "mean"), batch(1))
        assert asked == list(range(49, 25, -1))


class TestForms:
    """g = m - x0_hat; lambda = 0.1."""

    LAMBDA = 0.1

    @pytest.mark.parametrize("index", [49, 45, 30, 26, 1])
    def test_the_mean_form_shifts_x_by_lambda_sigma_g(self, index: int) -> None:
        step = steps(50)[49 - index]
        slots = batch(3, noise(9, 1))
        pred = prediction(step, noise(0), noise(1), noise(2).tanh())
        shift = mode(self.LAMBDA).delta(pred, slots)
        moved = Ddpm().step(pred, shift, noise(4)) - Ddpm().step(pred, None, noise(4))
        want = self.LAMBDA * pred.sigma_t * (slots.prototype - pred.x0_hat)
        torch.testing.assert_close(shift, want, rtol=1e-6, atol=0)
        torch.testing.assert_close(moved, want, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("index", [49, 45, 30, 26, 1])
    def test_the_epsilon_form_shifts_x0_hat(self, index: int) -> None:
        step = steps(50)[49 - index]
        slots = batch(3, noise(9, 1))
        pred = prediction(step, noise(0), noise(1))
        delta = mode(self.LAMBDA, "epsilon").delta(pred, slots)
        moved = pred.with_eps(pred.eps_hat + delta).x0_hat - pred.x0_hat
        want = self.LAMBDA * (1 - step.alpha_bar) / step.alpha_bar**0.5 * (slots.prototype - pred.x0_hat)
        torch.testing.assert_close(moved, want, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize(
        ("form", "net"),
        [
            ("mean", {45: 0.055, 35: 0.051, 30: 0.047, 26: 0.043}),
            ("epsilon", {45: 0.020, 35: 0.015, 30: 0.013, 26: 0.011}),
        ],
    )
    def test_the_forms_are_not_equally_strong(self, form: str, net: dict[int, float]) -> None:
        """Net shift of x_{t-1} as a multiple of g, each form with its own sampler on that sampler's released grid."""
        sampler, grid = FORMS[form]
        for index, share in net.items():
            step = steps(50, grid)[49 - index]
            slots = batch(3, noise(9, 1))
            pred = prediction(step, noise(0), noise(1))
            delta = mode(self.LAMBDA, form).delta(pred, slots)
            if form == "mean":
                guided = sampler().step(pred, delta, None)
            else:
                guided = sampler().step(pred.with_eps(pred.eps_hat + delta), None, None)
            g = slots.prototype - pred.x0_hat
            ratio = (guided - sampler().step(pred, None, None)) / g
            assert ratio.median().item() == pytest.approx(share, abs=6e-4)

    @pytest.mark.parametrize("index", [49, 45, 30, 26, 1])
    def test_the_releases_ddim_form_moves_x0_hat_itself(self, index: int) -> None:
        step = steps(50)[49 - index]
        slots = batch(3, noise(9, 1))
        pred = prediction(step, noise(0).double(), noise(1).double())
        delta = ModeX0(GuidanceConfig(scale=self.LAMBDA), "epsilon").delta(pred, slots)
        moved = pred.with_eps(pred.eps_hat + delta).x0_hat - pred.x0_hat
        torch.testing.assert_close(moved, self.LAMBDA * (slots.prototype - pred.x0_hat), rtol=1e-6, atol=1e-6)

    def test_which_is_nearly_nothing_while_noise_is_high(self) -> None:
        """Net shift of x_{t-1} as a multiple of g, a tenth and less of the other two forms'."""
        for index, share in {45: 0.0003, 35: 0.0013, 30: 0.0021, 26: 0.0029}.items():
            step = steps(50, "leading")[49 - index]
            slots = batch(3, noise(9, 1))
            pred = prediction(step, noise(0).double(), noise(1).double())
            delta = ModeX0(GuidanceConfig(scale=self.LAMBDA), "epsilon").delta(pred, slots)
            guided = Ddim().step(pred.with_eps(pred.eps_hat + delta), None, None)
            ratio = (guided - Ddim().step(pred, None, None)) / (slots.prototype - pred.x0_hat)
            assert ratio.median().item() == pytest.approx(share, abs=1e-4)
