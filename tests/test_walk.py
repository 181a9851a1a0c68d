"""What a trajectory leaves behind: how far it walks, and the numbers of its guided steps."""

from __future__ import annotations

import pytest
import torch
from analytic import batch, flow_prediction, noise
from test_path import MODES, guide, run

from raydistill.diffusion import flow
from raydistill.diffusion.samplers.euler import Euler
from raydistill.diffusion.samplers.heun import Heun
from raydistill.diffusion.walk import Walk


class TestWalk:
    def test_a_straight_line_has_no_detour_and_a_square_has_two(self) -> None:
        """Right, up, left: three sides of a square end one side from where they began."""
        sides = iter([(1.0, 0.0), (0.0, 1.0), (-1.0, 0.0)])
        told: list[tuple[int, float]] = []

        class Sides:
            def step(self, field, x, step):
                return x + torch.tensor(next(sides)).view(1, 2, 1, 1)

        walk = Walk(Sides(), lambda step, seen: told.append((step.index, seen["detour"].item())))
        x = torch.zeros(1, 2, 1, 1)
        for step in flow.path(3):
            x = walk.step(None, x, step)
        assert [i for i, _ in told] == [2, 1, 0]
        assert [d for _, d in told] == pytest.approx([1.0, 2 / 2**0.5, 3.0]) and walk.length.tolist() == [3.0]

    def test_it_changes_nothing_in_flows_or_diffusion(self) -> None:
        from analytic import steps

        from raydistill.diffusion.loop import sample
        from raydistill.diffusion.samplers.ddim import Ddim
        from raydistill.diffusion.samplers.ddpm import Ddpm

        walk = Walk(Heun())
        ends = [flow.sample(MODES.velocity, flow.path(6), s, None, batch(3))[0] for s in (Heun(), walk)]
        assert torch.equal(*ends) and (walk.path_ratio >= 1).all() and walk.spaces == ("velocity",)
        lengths = []
        for kind in (Ddim, Ddpm):
            walk = Walk(kind())
            ends = [sample(MODES, steps(20), s, None, batch(3)) for s in (kind(), walk)]
            assert torch.equal(*ends)
            lengths.append(walk.length)
        assert (lengths[1] > lengths[0]).all(), "noise on the way makes it longer"


class TestMeasured:
    def test_the_numbers_are_what_they_say(self) -> None:
        pred, slots = flow_prediction(flow.path(10)[2], noise(0), noise(1)), batch(3, noise(2))
        delta, seen = guide(w_max=1.0, tau=0.3).measured(pred, slots)
        ratio = delta.flatten(1).norm(dim=1) / pred.v_hat.flatten(1).norm(dim=1)
        torch.testing.assert_close(seen["push"], ratio)
        whole = guide(w_max=1.0).delta(pred, slots)
        torch.testing.assert_close(seen["trusted"] * whole.flatten(1).norm(dim=1), delta.flatten(1).norm(dim=1))
        rms = (slots.prototype - pred.x1_hat).flatten(1).square().mean(1).sqrt()
        torch.testing.assert_close(seen["ahead"], rms)

    def test_each_guided_step_is_told_once(self) -> None:
        told: list[int] = []
        for sampler in (Euler(), Heun()):
            run(sampler, 10, guide(t_stop=0.55), watch=lambda s, seen: told.append(s.index))
        assert told == 2 * [9, 8, 7, 6, 5, 4]
