"""Any denoiser as a flow, any flow as a denoiser: every convention ends in the same estimates and the same velocity."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from analytic import LINEAR, Mixture, batch, noise, steps
from generators import write
from torch import Tensor

from raydistill.diffusion import flow
from raydistill.diffusion.loop import sample
from raydistill.diffusion.samplers.ddim import Ddim
from raydistill.diffusion.samplers.euler import Euler
from raydistill.diffusion.schedule import Step, alphas_bar, path
from raydistill.errors import BadInput
from raydistill.models.denoiser import Denoiser, GeneratorSpec
from raydistill.models.device import Placement
from raydistill.models.parametrisation import OfDiffusion, OfFlow, Parametrisation

CPU = Placement(torch.device("cpu"), torch.float32, "cpu/float32")
ALPHAS = alphas_bar(LINEAR)
DATA = Mixture((-1.0, 1.0), 0.3)
NONE = torch.zeros(3, dtype=torch.long)


def answer(kind: str, x: Tensor, told: float) -> Tensor:
    """What a perfect network of DATA says in each convention, by its own definition of what it is shown and told."""
    if kind in ("epsilon", "v"):
        step = Step(1, 0.5, int(told), float(ALPHAS[int(told)]), 1.0, 2)
        pred = DATA(x, step, NONE)
        if kind == "epsilon":
            return pred.eps_hat
        return step.alpha_bar**0.5 * pred.eps_hat - (1 - step.alpha_bar) ** 0.5 * pred.x0_hat
    if kind == "data - noise, t":
        return DATA.velocity(x, told, NONE)
    return -DATA.velocity(x, 1 - told / 1000, NONE)


NETWORKS: dict[str, Parametrisation] = {
    "epsilon": OfDiffusion("epsilon", ALPHAS),
    "v": OfDiffusion("v", ALPHAS),
    "noise - data, 1000 sigma": OfFlow(-1, 1000, ALPHAS),
    "data - noise, t": OfFlow(1, 0, ALPHAS),
}


@pytest.mark.parametrize("kind", NETWORKS)
class TestEveryConvention:
    @pytest.mark.parametrize("index", [49, 40, 25, 5, 0])
    def test_means_the_same_noise_and_image(self, kind: str, index: int) -> None:
        network, step, x = NETWORKS[kind], steps(50)[49 - index], noise(0).double()
        eps, x0 = network.estimates(x, step, answer(kind, *network.noised(x, step)))
        want = DATA(x, step, NONE)
        torch.testing.assert_close(eps, want.eps_hat, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(x0, want.x0_hat, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("index", [999, 700, 200, 0])
    def test_means_the_same_velocity(self, kind: str, index: int) -> None:
        """At times that a network of diffusion knows; and its end points are x_t (1 - t) v and x_t - t v."""
        network, x = NETWORKS[kind], noise(0).double()
        t = float(OfDiffusion("epsilon", ALPHAS).own_times[index])
        v = network.velocity(x, t, answer(kind, *network.on_path(x, t)))
        torch.testing.assert_close(v, DATA.velocity(x, t, NONE), rtol=1e-5, atol=1e-5)

    def test_round_trip(self, kind: str) -> None:
        """x_t -> eps_hat, x0_hat -> the point on the linear path -> v -> the same two ends, in single precision."""
        network = NETWORKS[kind]
        for step in steps(50)[10:]:
            a, s = step.alpha_bar**0.5, (1 - step.alpha_bar) ** 0.5
            x, t = noise(0), float(OfDiffusion("epsilon", ALPHAS).own_times[step.t])
            eps, x0 = network.estimates(x, step, answer(kind, *network.noised(x, step)))
            on = x / (a + s)
            v = network.velocity(on, t, answer(kind, *network.on_path(on, t)))
            assert t == pytest.approx(a / (a + s), abs=1e-12)
            torch.testing.assert_close(a * x0 + s * eps, x, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(on - t * v, eps, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(on + (1 - t) * v, x0, rtol=1e-5, atol=1e-4)


class TestTimes:
    def test_a_network_of_diffusion_is_asked_at_its_own_times_only(self) -> None:
        network = NETWORKS["epsilon"]
        assert network.own_times is not None and len(network.own_times) == 1000
        assert np.all(np.diff(network.own_times) < 0) and network.own_times[-1] == pytest.approx(0.00632, abs=1e-4)
        with pytest.raises(ValueError, match="not a time of the generator's own"):
            network.on_path(noise(0), 0.5)

    def test_a_flow_is_told_any_time(self) -> None:
        assert all(NETWORKS[k].own_times is None for k in list(NETWORKS)[2:])
        assert NETWORKS["noise - data, 1000 sigma"].on_path(noise(0), 0.25)[1] == pytest.approx(750)
        assert NETWORKS["data - noise, t"].on_path(noise(0), 0.25)[1] == 0.25

    def test_under_ddpm_and_ddim_a_flow_goes_along_dits_betas(self, tmp_path: Path) -> None:
        spec = GeneratorSpec(write(tmp_path / "g", "flow"))
        assert np.array_equal(spec.alphas_bar, ALPHAS) and spec.predicts.own_times is None and spec.time_shift == 1

    def test_the_shift_of_its_scheduler_moves_the_times(self, tmp_path: Path) -> None:
        spec = GeneratorSpec(write(tmp_path / "g", "flow", {"shift": 3.0}))
        sigma = np.array([1 - s.t for s in spec.times(4, 0.0, "released")])
        even = np.array([1, 0.75, 0.5, 0.25])
        assert sigma == pytest.approx(3 * even / (1 + 2 * even))


class TestDenoiser:
    """The directory says which convention; the network itself is called by hand beside it."""

    @pytest.fixture(autouse=True)
    def one_thread(self) -> None:
        torch.set_num_threads(1)

    @staticmethod
    def by_hand(d: Denoiser, x: Tensor, told: float, label: int) -> Tensor:
        with torch.inference_mode():
            labels = torch.full((len(x),), label)
            return d.net(x, timestep=torch.full((len(x),), told), class_labels=labels).sample

    @pytest.mark.parametrize(
        ("training", "sign", "told"),
        [
            ({}, -1, 700.0),
            ({"velocity": "noise - data", "timestep": "1000 * sigma"}, -1, 700.0),
            ({"velocity": "data - noise", "timestep": "t"}, 1, 0.3),
            ({"velocity": "data - noise"}, 1, 700.0),
        ],
    )
    def test_both_signs_and_both_times(self, tmp_path: Path, training: dict, sign: int, told: float) -> None:
        spec = GeneratorSpec(write(tmp_path / "g", "flow", **training))
        x = noise(0, 2, spec.latent_shape)
        for scale in (1.0, 2.5):
            d = Denoiser(spec, CPU, scale, "all")
            cond, null = (self.by_hand(d, x, told, label) for label in (7, spec.null_class))
            want = sign * (null + scale * (cond - null))
            torch.testing.assert_close(d.velocity(x, 0.3, torch.tensor([7, 7])), want, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("prediction", ["epsilon", "v", "flow"])
    def test_ddim_is_euler_on_the_same_times(self, tmp_path: Path, prediction: str) -> None:
        """One network, two loops. One begins with eps, the other with s eps, 2e-5 shorter: 0.3 % of x0_hat there."""
        spec = GeneratorSpec(write(tmp_path / "g", prediction))
        d, slots = Denoiser(spec, CPU, 2.0, "first3"), batch(2, 0.0, spec.latent_shape)
        x0 = sample(d, path(spec.alphas_bar, "released", 6), Ddim(), None, slots)
        times = flow.path(6, 0.0, OfDiffusion("epsilon", spec.alphas_bar).own_times)
        x1, calls = flow.sample(d.velocity, times, Euler(), None, slots)
        torch.testing.assert_close(x1, x0, rtol=1e-2, atol=1e-2)
        assert calls.tolist() == [6, 6] and d.calls_per_step == 2

    @pytest.mark.parametrize(
        ("prediction", "scheduler", "training", "why"),
        [
            ("flow", {}, {"velocity": "noise"}, "gives velocity='noise'; known are 'noise - data' and 'data - noise'"),
            ("flow", {}, {"timestep": ["t"]}, "known are '1000 * sigma' and 't'"),
            ("flow", {}, {"learned_variance": True}, "a flow has no variance to learn"),
            ("flow", {"use_dynamic_shifting": True}, {}, "use_dynamic_shifting=True in the scheduler"),
            ("flow", {"shift": 0}, {}, "shift=0 in its scheduler; it must be a positive number"),
            ("flow", {"num_train_timesteps": 0}, {}, "num_train_timesteps=0"),
            ("flow", {"_class_name": "DDIMScheduler"}, {}, "predicts 'flow' but its scheduler is 'DDIMScheduler'"),
            ("v", {"prediction_type": "epsilon"}, {}, "predicts 'v' by training.json, but its scheduler says"),
            ("v", {}, {"prediction": "x0"}, "predicts 'x0'; training.json must give"),
        ],
    )
    def test_contradictions_are_refused(
        self, tmp_path: Path, prediction: str, scheduler: dict, training: dict, why: str
    ) -> None:
        folder = write(tmp_path / "g", prediction, scheduler, **training)
        with pytest.raises(BadInput) as caught:
            GeneratorSpec(folder)
        assert why in str(caught.value) and "\n" not in str(caught.value)
