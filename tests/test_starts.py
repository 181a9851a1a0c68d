"""Where trajectories begin: levels by share and by signal-to-noise ratio, in diffusion and in flows, and refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from analytic import LINEAR, Mixture, batch
from tiny_run import config

from raydistill.diffusion import flow, loop
from raydistill.diffusion.samplers.ddim import Ddim
from raydistill.diffusion.samplers.ddpm import Ddpm
from raydistill.diffusion.samplers.euler import Euler
from raydistill.diffusion.schedule import alphas_bar, path
from raydistill.diffusion.start import NOISE, Start
from raydistill.errors import BadInput
from raydistill.methods.ddoq import D4M_SNR
from raydistill.methods.resolve import resolve
from raydistill.pipeline.preflight import prepare
from raydistill.stages.syntheses.sample import identity

STABLE_DIFFUSION = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


def steps(start: Start, count: int = 50):
    return path(alphas_bar(LINEAR), "released", count, start)


class TestLevels:
    def test_the_default_is_where_d4m_begins_on_stable_diffusion(self) -> None:
        """Its pipeline runs the last 35 of PNDM's 50 steps, of which the second time is there twice: t = 701 first."""
        level = alphas_bar(STABLE_DIFFUSION)[701]
        assert pytest.approx(D4M_SNR, rel=5e-3) == level / (1 - level)

    def test_the_same_share_of_the_path_is_another_level_of_another_schedule(self) -> None:
        by_share, by_level = steps(Start(0.3))[0], steps(Start(snr=D4M_SNR))[0]
        assert by_share.alpha_bar < 0.01 < 0.08 < by_level.alpha_bar < 0.1
        assert len(steps(Start(snr=D4M_SNR))) == 25, "half of the path on DiT's schedule"

    @pytest.mark.parametrize("snr", [1e-4, 0.0892, 1.0, 50.0])
    def test_the_first_step_is_the_one_nearest_to_the_level(self, snr: float) -> None:
        first = steps(Start(snr=snr))[0].alpha_bar
        every = np.array([s.alpha_bar for s in steps(NOISE)])
        distance = np.abs(np.log(every / (1 - every)) - np.log(snr))
        assert first == every[distance.argmin()]

    @pytest.mark.parametrize("snr", [1e-4, 0.0892, 1.0, 50.0])
    def test_a_flow_begins_at_the_time_that_has_the_level(self, snr: float) -> None:
        t = Start(snr=snr).time
        assert (t / (1 - t)) ** 2 == pytest.approx(snr) and flow.path(10, t)[0].t == t

    @pytest.mark.parametrize(
        ("strength", "count"),
        [(1.0, 50), (0.99, 49), (0.75, 37), (0.7, 35), (0.55, 27), (0.5, 25), (0.35, 17), (0.01, 1)],
    )
    def test_strength_is_the_share_of_the_steps_that_run(self, strength: float, count: int) -> None:
        assert len(steps(Start(1 - strength))) == count

    def test_indices_and_shares_count_the_steps_that_run(self) -> None:
        run = steps(Start(0.5))
        assert [s.index for s in run] == list(range(24, -1, -1)) and run[0].fraction == 24 / 25


class TestTrajectories:
    """Data N(0, 1): the denoiser is exact, so that what is left of a prototype can be computed."""

    data = Mixture((0.0,), 1.0)

    @pytest.mark.parametrize("sampler", [Ddpm(), Ddim()])
    def test_hardly_any_noise_gives_the_prototype_back(self, sampler) -> None:
        slots = batch(4, 0.7)
        x0 = loop.sample(self.data, steps(Start(0.98)), sampler, None, slots, start=Start(0.98))
        assert (x0 - slots.prototype).abs().max() < 0.1

    def test_hardly_any_noise_in_a_flow(self) -> None:
        slots, start = batch(4, 0.7), Start(0.99)
        x0, _ = flow.sample(self.data.velocity, flow.path(5, start.time), Euler(), None, slots, start=start)
        assert (x0 - slots.prototype).abs().max() < 0.1

    @pytest.mark.parametrize("snr", [0.0892, 1.0])
    def test_ddim_keeps_the_share_of_the_prototype_that_it_began_with(self, snr: float) -> None:
        """Of N(0, 1) the probability flow is the identity: x_0 = sqrt(a) p + sqrt(1 - a) noise."""
        slots, start = batch(4, 2.0), Start(snr=snr)
        run = steps(start, 1000)
        x0 = loop.sample(self.data, run, Ddim(), None, slots, start=start)
        a = run[0].alpha_bar
        assert torch.allclose(x0, a**0.5 * slots.prototype + (1 - a) ** 0.5 * slots.noise("init", 0), atol=2e-2)

    def test_full_strength_is_pure_noise_to_the_bit(self) -> None:
        slots = batch(4, 2.0)
        one, other = (loop.sample(self.data, steps(s), Ddim(), None, slots, start=s) for s in (NOISE, Start(0.0)))
        assert torch.equal(one, other)


class TestResolution:
    def test_a_method_has_its_own_and_the_configuration_goes_before_it(self) -> None:
        def of(**start):
            return resolve(config(method="ddoq", start=start)).sampling.start

        assert of() == Start(snr=D4M_SNR) and of(snr=2.0) == Start(snr=2.0)
        assert of(strength=0.6) == Start(1 - 0.6) and of(strength=1.0) == NOISE

    def test_guidance_of_diffusion_and_of_flows_takes_a_start(self) -> None:
        guided = resolve(config(method="mgd3", start={"strength": 0.5}, sampler={"steps": 10})).sampling
        assert guided.start == Start(0.5) and guided.acting
        flows = resolve(config(method="pgfm", path={"t0": 0.0}, start={"snr": 0.1})).sampling
        assert flows.start == Start(snr=0.1)

    @pytest.mark.parametrize(
        ("more", "line"),
        [
            ({"method": "dit", "start": {"strength": 0.5}}, "method dit has none; leave start.strength and start.snr"),
            ({"method": "pgfm", "start": {"snr": 1.0}}, r"guidance path begins at t=0\.1 itself.* set path\.t0=0, or"),
            ({"method": "mgd3", "start": {"strength": 0.02}, "sampler": {"steps": 50}}, r"holds none of the 1 steps"),
        ],
    )
    def test_what_does_not_go_together_is_refused(self, more, line: str) -> None:
        with pytest.raises(BadInput, match=line):
            resolve(config(**more))

    @pytest.mark.parametrize("start", [{"strength": 0.0}, {"strength": 1.5}, {"snr": -1.0}])
    def test_what_is_no_level_is_refused(self, start) -> None:
        with pytest.raises(BadInput, match=r"start\.(strength|snr)"):
            config(start=start)

    def test_images_are_others_where_whole_steps_are_cut_alone(self) -> None:
        """As many ran once as are nearest to the share, which is known by `run` where it is another number."""

        def parts(**start):
            sampling = resolve(config(method="d4m", start=start, sampler={"steps": 50})).sampling
            return next(p for p in identity(sampling, None) if isinstance(p, dict) and "start" in p)

        assert parts(strength=0.75)["run"] == 37
        assert "run" not in parts(strength=0.7) and "run" not in parts(strength=0.5) and "run" not in parts(snr=1.0)

    def test_two_levels_are_refused(self) -> None:
        with pytest.raises(BadInput, match=r"start\.strength and start\.snr both say"):
            config(start={"strength": 0.5, "snr": 1.0})

    def test_so_few_steps_that_none_is_near_the_level_are_told_of_and_more_are_the_remedy(
        self, tmp_path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for steps, told in ((1, True), (2, True), (50, False)):
            prepare(config(method="ddoq", sampler={"steps": steps}, run_dir=str(tmp_path / "run")))
            said = capsys.readouterr().err
            assert ("paths begin there; raise sampler.steps" in said) == told, said

    def test_a_level_that_leaves_no_step_to_guide_is_refused_beforehand(self, tmp_path) -> None:
        asked = config(method="mgd3", start={"snr": 1e5}, sampler={"steps": 50}, run_dir=str(tmp_path / "run"))
        with pytest.raises(BadInput, match=r"holds none of the 1 steps"):
            prepare(asked)
        assert not list(tmp_path.iterdir())
