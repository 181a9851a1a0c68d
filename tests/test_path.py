"""Path guidance: lands exactly, does nothing at 0, follows the law of a normal, keeps its trust region."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from analytic import Mixture, batch, flow_prediction, noise
from scipy.integrate import quad, solve_ivp
from scipy.stats import norm as gauss

from raydistill.config import AdaptiveConfig, GuidanceConfig, PathConfig, build
from raydistill.diffusion import flow
from raydistill.diffusion.prediction import FlowPrediction
from raydistill.diffusion.samplers.adaptive import Adaptive
from raydistill.diffusion.samplers.euler import Euler
from raydistill.diffusion.samplers.heun import Heun
from raydistill.diffusion.start import NOISE
from raydistill.errors import BadInput
from raydistill.guidance.path import Path

MODES = Mixture((-2.0, 2.0), 0.3)
MU, S, P = 1.5, 0.4, 0.3  # a normal, and a prototype that is not its mean
NORMAL = Mixture((MU,), S)
SOLVERS = {"euler": Euler, "heun": Heun}


def guide(**settings) -> Path:
    return Path(GuidanceConfig(), "velocity", PathConfig(**({"t0": 0.0, "tau": None} | settings)))


def run(sampler: flow.FlowSampler, count: int, guidance: Path | None, data: Mixture = MODES, p=1.7, watch=None):
    start = Path.start(guidance.settings) if guidance else NOISE
    steps = flow.path(count, start.t0)
    return flow.sample(data.velocity, steps, sampler, guidance, batch(3, p), watch, start)[0]


@pytest.mark.parametrize("solver", SOLVERS)
class TestEnds:
    @pytest.mark.parametrize("count", [1, 2, 3, 8, 50])
    @pytest.mark.parametrize("t0", [0.0, 0.3])
    def test_a_constant_weight_of_1_lands_on_the_prototype(self, solver: str, count: int, t0: float) -> None:
        """Whatever the network says, the number of steps and where the path begins."""
        p = noise(5, 3)
        x = run(SOLVERS[solver](), count, guide(w_max=1.0, t_stop=1.0, power=0.0, t0=t0), p=p)
        torch.testing.assert_close(x, p, rtol=1e-5, atol=1e-5)

    def test_the_way_there_is_a_straight_line(self, solver: str) -> None:
        p, t = noise(5, 3), 0.4
        steps = [s for s in flow.path(5) if s.t < t]
        field = flow.Field(MODES.velocity, guide(w_max=1.0, t_stop=1.0, power=0.0), batch(3, p))
        x = batch(3).noise("init", 0)
        for s in steps:
            x = SOLVERS[solver]().step(field, x, s)
        torch.testing.assert_close(x, (1 - t) * batch(3).noise("init", 0) + t * p, rtol=1e-5, atol=1e-5)

    def test_a_weight_of_0_is_the_flow_bit_for_bit(self, solver: str) -> None:
        assert torch.equal(run(SOLVERS[solver](), 7, guide(w_max=0.0)), run(SOLVERS[solver](), 7, None))

    def test_a_larger_weight_lands_nearer(self, solver: str) -> None:
        ends = [run(SOLVERS[solver](), 16, guide(w_max=w), NORMAL, P) for w in (0.0, 0.2, 0.5, 1.0)]
        far = [(x - P).square().mean().item() for x in ends]
        assert far == sorted(far, reverse=True) and far[-1] < 0.8 * far[0]

    def test_it_decides_which_mode_is_reached(self, solver: str) -> None:
        free, led = (run(SOLVERS[solver](), 16, g, p=2.0) for g in (None, guide(w_max=1.0)))
        assert (free > 0).float().mean() < 0.6 and (led > 0).float().mean() > 0.8
        assert ((led.abs() - 2).abs() < 0.6).float().mean() > 0.85, "and the flow still ends in it"


def velocity_line(t: float) -> tuple[float, float]:
    """v = slope x + rest of NORMAL at time t."""
    k = (t * S**2 - (1 - t)) / (t**2 * S**2 + (1 - t) ** 2)
    return k, MU - k * t * MU


def guided_line(t: float, config: PathConfig) -> tuple[float, float]:
    """(1 - w) v + w (P - x) / (1 - t), as a line in x."""
    w = config.w_max * (1 - t / config.t_stop) ** config.power if t < config.t_stop else 0.0
    slope, rest = velocity_line(t)
    return (1 - w) * slope - w / (1 - t), (1 - w) * rest + w * P / (1 - t)


class TestNormal:
    """For one normal the guided flow is linear in x: the end is A eps + B, with A and B computed here by themselves."""

    @pytest.mark.parametrize(
        "settings",
        [{}, {"w_max": 1.0, "power": 2.0}, {"w_max": 0.6, "t_stop": 1.0}, {"power": 0.0, "t_stop": 0.45}, {"t0": 0.2}],
    )
    @pytest.mark.parametrize("solver", SOLVERS)
    @pytest.mark.parametrize("count", [1, 8])
    def test_the_end_is_where_the_recursion_says(self, solver: str, count: int, settings: dict) -> None:
        g = guide(**settings)
        a, b = 1 - g.settings.t0, g.settings.t0 * P
        for s in flow.path(count, g.settings.t0):
            h, (k, r) = s.t_next - s.t, guided_line(s.t, g.settings)
            if solver == "heun" and s.index > 0:
                k2, r2 = guided_line(s.t_next, g.settings)
                k, r = (k + k2 * (1 + h * k)) / 2, (r + r2 + k2 * h * r) / 2
            a, b = (1 + h * k) * a, (1 + h * k) * b + h * r
        x = run(SOLVERS[solver](), count, g, NORMAL, P)
        torch.testing.assert_close(x, a * batch(3).noise("init", 0) + b, rtol=1e-4, atol=1e-5)

    def test_adaptive_is_what_many_steps_come_to(self) -> None:
        g = guide(w_max=0.7, t_stop=1.0)
        many = run(Heun(), 100, g, NORMAL, P)
        torch.testing.assert_close(run(Adaptive(), 1, g, NORMAL, P), many, rtol=5e-3, atol=5e-3)

    def test_one_step_moves_the_predicted_image_by_its_share(self) -> None:
        """x1_hat + w (p - x1_hat), at any time and step size."""
        for step in flow.path(10)[:6]:
            pred = flow_prediction(step, noise(0), noise(1))
            g, slots = guide(w_max=0.4, t_stop=0.8, power=2.0), batch(3, noise(2))
            moved = FlowPrediction(step, step.t, pred.x_t, pred.v_hat + g.delta(pred, slots))
            w = 0.4 * (1 - step.t / 0.8) ** 2
            assert g.weight(step.t) == pytest.approx(w)
            want = pred.x1_hat + w * (slots.prototype - pred.x1_hat)
            torch.testing.assert_close(moved.x1_hat, want, rtol=1e-5, atol=1e-5)


def width(t: float) -> float:
    """Standard deviation of x_t for NORMAL."""
    return (t**2 * S**2 + (1 - t) ** 2) ** 0.5


class TestLaw:
    """What the guided ODE itself comes to, not a recursion of its steps."""

    @pytest.mark.parametrize(("w", "stop"), [(0.3, 0.6), (0.8, 0.5), (1.0, 0.7)])
    @pytest.mark.parametrize("p", [MU, P])
    def test_a_constant_weight_leaves_a_share_of_a_normals_width(self, w: float, stop: float, p: float) -> None:
        """u = x - t MU obeys u' = (1 - w) (s'/s) u + w (p - MU - u) / (1 - t), s the width at t. Hence the end is
        MU + S ((1 - T) / s(T))^w eps, and of p - MU what variation of constants says; a = s^(1-w) (1 - t)^w."""

        def a(t: float) -> float:
            return width(t) ** (1 - w) * (1 - t) ** w

        moved = a(stop) * quad(lambda t: w * (p - MU) / ((1 - t) * a(t)), 0, stop)[0]
        eps = batch(3).noise("init", 0)
        want = MU + S / width(stop) * (moved + a(stop) * eps)
        if p == MU:
            torch.testing.assert_close(want, MU + S * ((1 - stop) / width(stop)) ** w * eps)
        g = guide(w_max=w, t_stop=stop, power=0.0)
        field = flow.Field(NORMAL.velocity, g, batch(3, p))
        x = eps
        for t, after in ((0.0, stop - 1e-6), (stop, 1.0)):  # the weight ends at once, and no step may reach over that
            x = Adaptive(AdaptiveConfig(rtol=1e-5, atol=1e-5)).step(field, x, flow.FlowStep(0, t, after, 1))
        torch.testing.assert_close(x, want, rtol=1e-3, atol=1e-3)

    @pytest.mark.parametrize(
        ("settings", "stop"), [({"w_max": 0.0, "t0": 0.3}, 0.3), ({"w_max": 1.0, "power": 0.0, "t_stop": 0.4}, 0.4)]
    )
    def test_a_mixture_ends_at_the_quantile_at_which_guidance_left_it(self, settings: dict, stop: float) -> None:
        """Warm start, or a pull of 1 until T: at T the state is (1 - T) eps + T p exactly. From there on the flow of
        one number keeps its rank: F_1(x_1) = F_T(x_T), with F_t the mixture's distribution on the path."""
        data, p = Mixture((-1.0, 1.5), 0.4), 0.5
        eps = batch(3).noise("init", 0)
        x_t = ((1 - stop) * eps + stop * p).double().numpy()

        def rank(x: np.ndarray, t: float) -> np.ndarray:
            s = (t**2 * data.std**2 + (1 - t) ** 2) ** 0.5
            return np.mean([gauss.cdf((x - t * m) / s) for m in data.means], axis=0)

        grid = np.linspace(-4, 4, 20001)
        want = np.interp(rank(x_t, stop), rank(grid, 1.0), grid)
        x = run(Heun(), 400, guide(**settings), data, p)
        np.testing.assert_allclose(x.numpy(), want, atol=0.02)

    @pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2)])
    def test_guidance_keeps_a_solvers_order(self, solver: str, order: int) -> None:
        """With t_stop = 1 and power 1, where w / (1 - t) is smooth. The truth is the scalar equation's."""
        g = guide(w_max=0.7, t_stop=1.0)

        def ends(start: float) -> float:
            def slope(t: float, x: float) -> float:
                k, r = guided_line(min(t, 1 - 1e-9), g.settings)
                return k * x + r

            return solve_ivp(slope, (0, 1), [start], rtol=1e-10, atol=1e-10).y[0, -1]

        b = ends(0.0)
        truth = (ends(1.0) - b) * batch(3).noise("init", 0) + b
        errors = [(run(SOLVERS[solver](), n, g, NORMAL, P) - truth).abs().max().item() for n in (16, 32, 64)]
        assert -np.diff(np.log2(errors)) == pytest.approx(order, abs=0.3)

    def test_adaptive_meets_its_tolerance_under_guidance(self) -> None:
        g = guide(w_max=0.7, t_stop=1.0)
        fine = run(Heun(), 400, g, NORMAL, P)
        errors = [
            (run(Adaptive(AdaptiveConfig(rtol=r, atol=r)), 1, g, NORMAL, P) - fine).abs().max().item()
            for r in (1e-2, 1e-4)
        ]
        assert errors[1] < errors[0] < 0.2 and errors[1] < 2e-3

    def test_the_last_step_of_heun_is_eulers(self) -> None:
        field, x = flow.Field(MODES.velocity, guide(w_max=0.5, t_stop=1.0), batch(3, 1.7)), noise(4)
        *before, last = flow.path(4)
        assert torch.equal(Heun().step(field, x, last), Euler().step(field, x, last))
        assert not torch.equal(Heun().step(field, x, before[-1]), Euler().step(field, x, before[-1]))


class TestWarmStart:
    def test_it_begins_between_noise_and_prototype(self) -> None:
        asked: list[tuple[float, torch.Tensor]] = []

        def velocity(x, t, c):
            asked.append((t, x))
            return MODES.velocity(x, t, c)

        p = noise(5, 3)
        slots = batch(3, p)
        g = guide(t0=0.25)
        flow.sample(velocity, flow.path(4, 0.25), Euler(), g, slots, start=Path.start(g.settings))
        assert asked[0][0] == 0.25
        torch.testing.assert_close(asked[0][1], 0.75 * slots.noise("init", 0) + 0.25 * p)

    def test_it_acts_without_a_pull(self) -> None:
        acts = [(0.0, 0.2), (0.1, 0.0), (0.0, 0.0)]
        numbers = GuidanceConfig()
        assert [Path.acts(numbers, PathConfig(w_max=w, t0=t0)) for w, t0 in acts] == [True, True, False]
        far = [(run(Heun(), 16, guide(w_max=0.0, t0=t0), NORMAL, P) - P).square().mean() for t0 in (0.0, 0.5)]
        assert far[1] < 0.8 * far[0]


class TestTrustRegion:
    @pytest.mark.parametrize("sampler", [Euler(), Heun(), Adaptive()])
    def test_it_is_kept_at_every_evaluation(self, sampler: flow.FlowSampler) -> None:
        shares: list[torch.Tensor] = []

        class Recorder(Path):
            def measured(self, pred, batch):
                delta, seen = super().measured(pred, batch)
                shares.append(delta.flatten(1).norm(dim=1) / pred.v_hat.flatten(1).norm(dim=1))
                return delta, seen

        config = PathConfig(w_max=1.0, power=0.0, t0=0.0, tau=0.2)
        run(sampler, 4, Recorder(GuidanceConfig(), "velocity", config), p=torch.tensor(9.0))
        assert torch.cat(shares).max() <= 0.2 * (1 + 1e-5) and torch.cat(shares).max() > 0.199, "it binds, and holds"

    def test_a_slot_of_its_own(self) -> None:
        """A far prototype in one slot does not shorten the push of another, and direction is kept."""
        p = torch.stack([torch.full((4, 4, 4), 0.1), torch.full((4, 4, 4), 50.0)])
        pred = flow_prediction(flow.path(10)[2], noise(0, 2), noise(1, 2))
        free, held = (guide(tau=tau).delta(pred, batch(2, p)) for tau in (None, 0.5))
        torch.testing.assert_close(held[0], free[0])
        torch.testing.assert_close(held[1] / held[1].norm(), free[1] / free[1].norm())
        assert held[1].norm() == pytest.approx(0.5 * pred.v_hat[1].norm().item(), rel=1e-5)


class TestEndRegion:
    """rho: how far the predicted image may be moved, in units of the spread of its class."""

    def wide(self, p, spread=(1.0, 2.0, 3.0)):
        return replace(batch(3, p), context={"radius": torch.tensor(spread)})

    @pytest.mark.parametrize("sampler", [Euler(), Heun(), Adaptive()])
    @pytest.mark.parametrize("tau", [None, 0.5])
    def test_it_is_kept_at_every_evaluation(self, sampler: flow.FlowSampler, tau: float | None) -> None:
        moved: list[tuple[float, torch.Tensor, torch.Tensor]] = []

        class Recorder(Path):
            def measured(self, pred, batch):
                delta, seen = super().measured(pred, batch)
                led = FlowPrediction(pred.step, pred.t, pred.x_t, pred.v_hat + delta)
                moved.append((pred.t, (led.x1_hat - pred.x1_hat).flatten(1).norm(dim=1), batch.see("radius")))
                return delta, seen

        config = PathConfig(w_max=1.0, t_stop=1.0, power=0.0, t0=0.0, tau=tau, rho=0.4)
        guidance = Recorder(GuidanceConfig(), "velocity", config)
        flow.sample(MODES.velocity, flow.path(4), sampler, guidance, self.wide(torch.tensor(9.0)))
        shares = torch.cat([far / (0.4 * spread) for _, far, spread in moved])
        assert shares.max() <= 1 + 1e-4 and (tau or shares.min() > 0.999), "a far prototype: it binds at every step"

    def test_null_or_wide_changes_no_byte(self) -> None:
        for tau in (None, 0.5):
            free, wide = (guide(w_max=0.8, tau=tau, rho=rho) for rho in (None, 1e6))
            ends = [
                flow.sample(MODES.velocity, flow.path(6), Euler(), g, slots)[0]
                for g, slots in ((free, batch(3, 1.7)), (free, self.wide(1.7)), (wide, self.wide(1.7)))
            ]
            assert torch.equal(ends[0], ends[1]) and torch.equal(ends[0], ends[2])

    def test_on_a_line_the_end_moves_by_harmonic_numbers(self) -> None:
        """Where v is the same everywhere, the predicted image moves by nothing but guidance: with w = 1 and p far away
        by R h / (1 - t) a step, R = rho d; in n even steps by R (1/n + ... + 1/2 + 1)."""
        n, v, slots = 5, 0.3, self.wide(torch.tensor(100.0))
        g = guide(w_max=1.0, t_stop=1.0, power=0.0, rho=0.25)
        x = flow.sample(lambda x, t, c: torch.full_like(x, v), flow.path(n), Euler(), g, slots)[0]
        free = slots.noise("init", 0) + v
        moved = (x - free).flatten(1).norm(dim=1)
        harmonic = sum(1 / k for k in range(1, n + 1))
        torch.testing.assert_close(moved, 0.25 * slots.see("radius") * harmonic, rtol=1e-4, atol=1e-4)

    def test_it_lands_where_it_would_without_as_soon_as_it_is_near(self) -> None:
        g = guide(w_max=1.0, t_stop=1.0, power=0.0, rho=50.0)
        x = flow.sample(MODES.velocity, flow.path(4), Heun(), g, self.wide(noise(5, 3)))[0]
        torch.testing.assert_close(x, noise(5, 3), rtol=1e-5, atol=1e-5)

    def test_the_narrower_region_holds_and_is_told(self) -> None:
        pred, slots = flow_prediction(flow.path(10)[2], noise(0), noise(1)), self.wide(torch.tensor(30.0))
        both, one, other = (
            guide(w_max=1.0, tau=tau, rho=rho).measured(pred, slots)[1]["trusted"]
            for tau, rho in ((0.4, 0.8), (0.4, None), (None, 0.8))
        )
        torch.testing.assert_close(both, torch.minimum(one, other))

    def test_without_a_spread_it_says_so(self) -> None:
        pred = flow_prediction(flow.path(10)[2], noise(0), noise(1))
        with pytest.raises(ValueError, match=r"without 'radius' of their classes"):
            guide(rho=1.0).delta(pred, replace(batch(3), context={}))

    def test_slots_keep_their_own_spread(self) -> None:
        assert self.wide(0.0).take([2, 0]).see("radius").tolist() == [3.0, 1.0]


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"t0": 0.6}, r"path\.t_stop=0\.6 must be above path\.t0=0\.6, otherwise no step is guided"),
        ({"t_stop": 1.2}, r"path\.t_stop: Input should be less than or equal to 1"),
        ({"t0": -0.1}, r"path\.t0: Input should be greater than or equal to 0"),
        ({"t0": 1.1}, r"path\.t0: Input should be less than or equal to 1"),
        ({"t_stop": -0.1}, r"path\.t_stop: Input should be greater than or equal to 0"),
        ({"rho": 0.0}, r"path\.rho: Input should be greater than 0"),
        ({"w_max": 1.5}, r"path\.w_max: Input should be less than or equal to 1"),
        ({"tau": 0.0}, r"path\.tau: Input should be greater than 0"),
        ({"pairing": "hungarian"}, r"path\.pairing: Input should be 'optimal' or 'random'"),
    ],
)
def test_what_makes_no_sense_is_refused(settings: dict, why: str) -> None:
    with pytest.raises(BadInput, match=why):
        build({"path": settings})


def test_zero_steps_are_refused() -> None:
    with pytest.raises(BadInput, match=r"sampler\.steps: Input should be greater than or equal to 1"):
        build({"sampler": {"steps": 0}})
