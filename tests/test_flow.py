"""The loop of flows and its samplers: exact ends, orders of convergence, counted calls."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from analytic import LINEAR, Mixture, batch, noise

from raydistill.config import AdaptiveConfig
from raydistill.diffusion import flow
from raydistill.diffusion.loop import Batch
from raydistill.diffusion.samplers.adaptive import Adaptive
from raydistill.diffusion.samplers.euler import Euler
from raydistill.diffusion.samplers.heun import Heun
from raydistill.diffusion.schedule import Window, alphas_bar
from raydistill.errors import BadInput, StageFailed
from raydistill.models.parametrisation import OfDiffusion

MU, S = 1.5, 0.4
NORMAL = Mixture((MU,), S)
OWN = OfDiffusion("epsilon", alphas_bar(LINEAR)).own_times


def end(sampler: flow.FlowSampler, steps: tuple[flow.FlowStep, ...], data: Mixture = NORMAL, size: int = 2):
    return flow.sample(data.velocity, steps, sampler, None, batch(size))


class TestOrder:
    """For data N(MU, S^2) the flow is x_t = t MU + sqrt(t^2 S^2 + (1 - t)^2) eps exactly, so x_1 = MU + S eps."""

    TRUTH = MU + S * batch(2).noise("init", 0)

    def error(self, sampler: flow.FlowSampler, steps: tuple[flow.FlowStep, ...]) -> float:
        return (end(sampler, steps)[0] - self.TRUTH).abs().max().item()

    @pytest.mark.parametrize(("sampler", "order"), [(Euler(), 1), (Heun(), 2)])
    def test_twice_the_steps_leave_a_half_or_a_quarter(self, sampler: flow.FlowSampler, order: int) -> None:
        errors = [self.error(sampler, flow.path(n)) for n in (32, 64, 128)]
        rates = -np.diff(np.log2(errors))
        assert rates == pytest.approx(order, abs=0.25)

    @pytest.mark.parametrize("solver", ["RK45", "DOP853"])
    def test_adaptive_meets_its_tolerance(self, solver: str) -> None:
        errors = []
        for rtol in (1e-2, 1e-5):
            sampler = Adaptive(AdaptiveConfig(solver=solver, rtol=rtol, atol=rtol))  # type: ignore[arg-type]
            errors.append(self.error(sampler, flow.path(1)))
            assert errors[-1] < 20 * rtol
        assert errors[1] < errors[0]

    def test_other_grids_end_in_the_same_image(self) -> None:
        at_times = [flow.path(60, own_times=OWN, grid=grid) for grid in ("released", "leading")]
        for steps in (flow.path(60, shift=3.0), *at_times):
            assert self.error(Heun(), steps) < 0.02

    def test_a_mixture_comes_out_in_its_modes(self) -> None:
        x, _ = flow.sample(Mixture((-2.0, 2.0), 0.1).velocity, flow.path(30), Heun(), None, batch(32))
        assert ((x.abs() - 2).abs() < 0.5).float().mean() > 0.97
        assert (x > 0).float().mean().item() == pytest.approx(0.5, abs=0.05)


class TestCalls:
    """Of the network, for each slot. Classifier-free guidance doubles them later."""

    @pytest.mark.parametrize("n", [1, 2, 8])
    def test_euler_one_a_step_and_heun_two_but_one_at_the_last(self, n: int) -> None:
        for sampler, count in ((Euler(), n), (Heun(), 2 * n - 1)):
            asked: list[float] = []

            def velocity(x, t, c, asked=asked):
                asked.append(t)
                return NORMAL.velocity(x, t, c)

            _, calls = flow.sample(velocity, flow.path(n), sampler, None, batch(3))
            assert calls.tolist() == [count] * 3 and len(asked) == count
            assert max(asked) < 1, "nothing is asked at the image itself"

    def test_adaptive_counts_each_slot_by_itself(self) -> None:
        rows: list[int] = []

        def velocity(x, t, c):
            rows.append(len(x))
            return Mixture((-2.0, 2.0), 0.3).velocity(x, t, c)

        _, calls = flow.sample(velocity, flow.path(2), Adaptive(), None, batch(3))
        assert set(rows) == {1} and calls.sum() == len(rows) and calls.min() >= 2 * 7

    def test_a_solver_that_gives_up_is_told(self) -> None:
        """A tolerance below single precision cannot be met."""
        sampler = Adaptive(AdaptiveConfig(rtol=1e-12, atol=1e-12, calls=200))
        with pytest.raises(StageFailed, match=r"adaptive: not done after 200 network calls between t=0 and 1; raise"):
            end(sampler, flow.path(1), Mixture((-2.0, 2.0), 0.3), 1)

    def test_so_is_one_whose_guidance_asks_the_network_as_well(self) -> None:
        """Three calls at once, of which 200 are no multiple."""

        class Asking:
            window = Window()

            def delta(self, pred: flow.FlowPrediction, batch: Batch) -> torch.Tensor:
                return torch.zeros_like(pred.v_hat)

            def calls_at(self, step: flow.FlowStep) -> int:
                return 2

        sampler, data = Adaptive(AdaptiveConfig(rtol=1e-12, atol=1e-12, calls=200)), Mixture((-2.0, 2.0), 0.3)
        with pytest.raises(StageFailed, match=r"adaptive: not done after 200 network calls between t=0 and 1; raise"):
            flow.sample(data.velocity, flow.path(1), sampler, Asking(), batch(1))  # type: ignore[arg-type]


class TestPath:
    def test_an_even_grid_from_t0_to_the_image(self) -> None:
        steps = flow.path(4, 0.2)
        assert [s.t for s in steps] == pytest.approx([0.2, 0.4, 0.6, 0.8]) and steps[0].t == 0.2
        assert [s.t_next for s in steps] == [*[s.t for s in steps[1:]], 1.0]
        assert [s.index for s in steps] == [3, 2, 1, 0] and steps[0].fraction == pytest.approx(0.8)

    @pytest.mark.parametrize("shift", [0.5, 1.0, 3.0])
    def test_a_shift_is_diffusers(self, shift: float) -> None:
        """Their scheduler, given the even sigmas as pipelines do, walks the same path with Euler's method."""
        from diffusers import FlowMatchEulerDiscreteScheduler

        theirs = FlowMatchEulerDiscreteScheduler(shift=shift)
        theirs.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25])
        steps = flow.path(4, shift=shift)
        assert [1 - s.t for s in steps] == pytest.approx(theirs.sigmas[:-1].tolist(), abs=1e-6)
        x = noise(0)
        for t, sigma in zip(theirs.timesteps, theirs.sigmas, strict=False):
            x = theirs.step(-NORMAL.velocity(x, 1 - sigma.item(), None), t, x).prev_sample  # type: ignore[arg-type]
        mine = noise(0)
        for s in steps:
            mine = Euler().step(flow.Field(NORMAL.velocity, None, batch(3)), mine, s)
        torch.testing.assert_close(mine, x, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("shift", [0.5, 3.0])
    def test_a_warm_start_stays_where_it_is_under_a_shift(self, shift: float) -> None:
        assert flow.path(5, 0.3, shift=shift)[0].t == 0.3

    @pytest.mark.parametrize("grid", ["released", "leading"])
    def test_own_times_are_those_of_ddim(self, grid: str) -> None:
        from raydistill.diffusion.schedule import path

        steps = flow.path(10, own_times=OWN, grid=grid)
        ddim = path(alphas_bar(LINEAR), grid, 10)
        a = np.sqrt([s.alpha_bar for s in ddim])
        assert [s.t for s in steps] == pytest.approx(a / (a + np.sqrt(1 - a**2)), abs=1e-12)
        assert all(s.t in OWN for s in steps) and steps[-1].t_next == 1

    def test_own_times_begin_at_or_after_t0(self) -> None:
        steps = flow.path(8, 0.3, OWN)
        assert steps[0].t == min(OWN[OWN >= 0.3]) and all(s.t in OWN for s in steps)

    def test_more_steps_than_times_are_refused(self) -> None:
        with pytest.raises(BadInput, match=r"sampler\.steps=8 is more than the 5 times of the generator's from t=0\.9"):
            flow.path(8, 0.9, np.array([0.99, 0.97, 0.95, 0.93, 0.91, 0.5]))
